// Round trips, world sizes, fit, listing and pruning.
#include "checkpoint/checkpointer.h"

#include <sys/resource.h>

#include <set>

#include "checkpoint/diff.h"
#include "checkpoint/hdf5_layout.h"
#include "tests/checkpoint/checkpoint_support.h"

namespace tpo {
namespace {

namespace fs = std::filesystem;

TEST(Checkpointer, any_world_loads_what_any_world_saved) {
  const std::string want = contents(make_state(3));
  for (int writers : {1, 2, 4}) {
    TempFolder dir;
    save_ranks(writers, dir.path(), 100, 3);
    const std::string folder = dir.path() + "/step_00000100";
    EXPECT_EQ(latest(dir.path()), folder);
    EXPECT_TRUE(verify(folder).empty());
    EXPECT_TRUE(leftovers(dir.path()).empty());
    EXPECT_EQ(describe(folder).world, writers);
    for (int readers : {1, 2, 4}) {
      run_ranks(readers, [&](ProcessGroup& world) {
        TrainState got = make_state(50);
        const LoadReport report = load(folder, got, world);
        EXPECT_EQ(contents(got), want) << writers << " writers, " << readers << " readers";
        EXPECT_EQ(report.step, 100);
        EXPECT_EQ(report.config_text, make_state(3).config_text);
      });
    }
  }
}

TEST(Checkpointer, bytes_are_shared_out_evenly) {
  TempFolder dir;
  run_ranks(4, [&](ProcessGroup& world) {
    TrainState s;
    for (int i = 0; i < 16; ++i) s.tensors.push_back({cat("w", i), ramp({64, 1024}, 0), {64, 1024}, 0});
    save(dir.path(), 1, s, world);
  });
  for (int r = 0; r < 4; ++r) {
    const auto size = fs::file_size(cat(dir.path(), "/step_00000001/shard_0000", r, ".h5"));
    EXPECT_GE(size, 4u * 64 * 1024 * 4);
    EXPECT_LE(size, 4u * 64 * 1024 * 4 + 65536);
  }
}

TEST(Checkpointer, sharded_state_loads_into_other_shards) {
  TempFolder dir;
  const Tensor full = ramp({10, 7}, 5);
  const auto part = [&](int64_t begin, int64_t end) {
    TrainState s;
    std::vector<float> v(full.data<float>() + begin, full.data<float>() + end);
    s.tensors.push_back({"w", Tensor::from(v, {end - begin}), {10, 7}, begin});
    return s;
  };
  run_ranks(3, [&](ProcessGroup& world) {
    const int64_t cuts[] = {0, 11, 11, 70};  // rank 1 holds nothing
    save(dir.path(), 1, part(cuts[world.rank()], cuts[world.rank() + 1]), world);
  });
  run_ranks(2, [&](ProcessGroup& world) {
    const int64_t begin = world.rank() * 35, end = begin + 35;
    TrainState got = part(begin, end);
    const std::string want = contents(got);
    std::fill_n(got.tensors[0].value.data<float>(), 35, -1.0f);
    load(dir.path() + "/step_00000001", got, world);
    EXPECT_EQ(contents(got), want);
  });
  const auto gap = [&](ProcessGroup& world) {
    save(dir.path(), 2, part(world.rank() * 40, world.rank() * 40 + 30), world);
  };
  EXPECT_NE(message_of<ConfigError>([&] { run_ranks(2, gap); }).find("no rank holds element (4, 2) of tensor w"),
            std::string::npos);
}

// Bytes that this process has read, or -1 where the system does not say.
int64_t bytes_read() {
  std::ifstream in("/proc/self/io");
  std::string key;
  int64_t value = -1;
  return in >> key >> value ? value : -1;
}

// Every byte is read once to be checked, and by a rank that wants it in blocks of 256 KiB: the other ranks' are not.
TEST(Checkpointer, a_rank_reads_what_it_wants_and_its_share_of_the_check) {
  if (bytes_read() < 0) GTEST_SKIP() << "no /proc/self/io";
  TempFolder dir;
  constexpr int64_t kRows = 1024, kTensors = 4;
  const Tensor w = ramp({kRows, 1024}, 3);  // 4 MiB
  TrainState s;
  for (int i = 0; i < kTensors; ++i) s.tensors.push_back({cat("w", i), w, w.shape(), 0});
  const auto single = make_single();
  const std::string folder = save(dir.path(), 1, s, *single);
  for (int ranks : {1, 2, 8}) {
    const int64_t before = bytes_read();
    run_ranks(ranks, [&](ProcessGroup& world) {
      const int64_t rows = kRows / ranks;
      const Tensor part = w.rows(rows * world.rank(), rows * (world.rank() + 1));
      TrainState got;
      for (int i = 0; i < kTensors; ++i)
        got.tensors.push_back({cat("w", i), Tensor::zeros(part.shape()), w.shape(), rows * 1024 * world.rank()});
      load(folder, got, world);
      for (const StateTensor& t : got.tensors) EXPECT_EQ(t.value.to_vector<float>(), part.to_vector<float>());
    });
    const double times = static_cast<double>(bytes_read() - before) / static_cast<double>(kTensors * w.nbytes());
    EXPECT_GE(times, 2) << ranks;
    EXPECT_LE(times, 2.1) << ranks << " ranks";  // 0.1: the manifest, and what the test itself reads
  }
}

TEST(Checkpointer, more_shards_than_files_may_be_open) {
  TempFolder dir;
  constexpr int kRanks = 64;
  const Tensor w = ramp({kRanks * 4}, 1);
  run_ranks(kRanks, [&](ProcessGroup& world) {
    const int64_t at = 4 * world.rank();
    save(dir.path(), 1, TrainState{{part_of_tensor("w", w, whole_of(w.shape()), at, 4)}, {}, "", ""}, world);
  });
  const std::string folder = dir.path() + "/step_00000001";
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const auto open = std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  const rlimit few{static_cast<rlim_t>(open) + 20, before.rlim_max};  // two readers of 8 files, and some to spare
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  TrainState got{{{"w", Tensor::zeros(w.shape()), w.shape(), 0}}, {}, "", ""};
  EXPECT_NO_THROW(load_one(folder, got));
  EXPECT_EQ(verify(folder), std::vector<std::string>{});
  EXPECT_NO_THROW(EXPECT_TRUE(diff(folder, folder).none()));
  ::setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_EQ(got.tensors[0].value.to_vector<float>(), w.to_vector<float>());
}

TEST(Checkpointer, ranks_that_load_different_tensors_are_refused) {
  TempFolder dir;
  save_ranks(1, dir.path(), 1, 3);
  const std::string text = message_of<ConfigError>([&] {
    run_ranks(2, [&](ProcessGroup& world) {
      TrainState s = make_state(1);
      if (world.rank() == 1) s.tensors.pop_back();
      LoadOptions allow;
      allow.allow_unexpected = {"*"};
      load(dir.path() + "/step_00000001", s, world, allow);
    });
  });
  EXPECT_NE(text.find("ranks 0 and 1 load different tensors"), std::string::npos) << text;
}

TEST(Checkpointer, ranks_with_different_states_are_refused) {
  TempFolder dir;
  const std::string text = message_of<ConfigError>([&] {
    run_ranks(2, [&](ProcessGroup& world) {
      TrainState s = make_state(1);
      if (world.rank() == 1) s.tensors[1].name = "trunk.other";
      save(dir.path(), 1, s, world);
    });
  });
  EXPECT_NE(text.find("rank 1 has"), std::string::npos) << text;
  EXPECT_TRUE(list_checkpoints(dir.path()).empty());
}

TEST(Checkpointer, misfits_are_all_listed_and_nothing_changes) {
  TempFolder dir;
  save_ranks(1, dir.path(), 1, 3);
  const std::string folder = dir.path() + "/step_00000001";
  TrainState s = make_state(9);
  s.tensors[0] = {"trunk.w", ramp({129, 37}, 0), {129, 37}, 0};
  s.tensors[1].name = "trunk.gain";
  for (int i = 0; i < 30; ++i) s.tensors.push_back({cat("head.", 100 + i), ramp({2}, 0), {2}, 0});
  s.counters["optim.steps.head"] = 4;
  s.model_fingerprint = "another";
  const std::string before = contents(s);
  const std::string text = message_of<ConfigError>([&] { load_one(folder, s); });
  for (const char* part :
       {"32 missing", "counter:optim.steps.head", "head.100", " and 12 more", "1 not in this model", "trunk.b",
        "1 of another shape", "trunk.w f32(37, 129) there, f32(129, 37) here", "\"another\" here"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
  EXPECT_EQ(contents(s), before);

  LoadOptions allow{{"head.*", "trunk.ga?n", "counter:optim.steps.*"}, {"trunk.b"}, {"*.w"}, true};
  const LoadReport report = load_one(folder, s, allow);
  EXPECT_EQ(report.missing.size(), 32u);
  EXPECT_EQ(report.unexpected, std::vector<std::string>{"trunk.b"});
  EXPECT_EQ(report.reshaped, std::vector<std::string>{"trunk.w"});
  const TrainState saved = make_state(3);
  EXPECT_EQ(s.tensors[2].value.to_vector<float>(), saved.tensors[2].value.to_vector<float>());
  EXPECT_EQ(s.tensors[0].value.to_vector<float>(), ramp({129, 37}, 0).to_vector<float>());
  EXPECT_EQ(s.counters.at("optim.steps.head"), 4);
  EXPECT_EQ(s.counters.at("optim.steps.trunk"), 3);
}

TEST(Checkpointer, other_dtype_is_a_misfit) {
  TempFolder dir;
  save_ranks(1, dir.path(), 1, 3);
  TrainState s = make_state(9);
  s.tensors[1].value = Tensor::from(std::vector<int32_t>(129, 5), {129});
  EXPECT_NE(message_of<ConfigError>([&] { load_one(dir.path() + "/step_00000001", s); }).find("i32(129) here"),
            std::string::npos);
}

TEST(Checkpointer, fp32_and_bf16_fill_each_other) {
  const auto single = make_single();
  TempFolder dir;
  const std::vector<float> exact = {1, 1.0078125f, 3.14159f, -1e-30f, 7};
  std::vector<BF16> narrow;
  for (const float v : exact) narrow.push_back(BF16(v));
  const Tensor wide_from = Tensor::from(exact, {5}), narrow_from = Tensor::from(narrow, {5});
  for (const bool widens : {false, true}) {
    TrainState from, to;
    from.tensors.push_back({"w", widens ? narrow_from : wide_from, {5}});
    const std::string folder = save(dir.path(), widens, from, *single);
    // Of the other type, in two parts.
    const Tensor into = Tensor::zeros({5}, widens ? DType::kF32 : DType::kBF16);
    to.tensors.push_back({"w", into.rows(0, 2), {5}, 0});
    to.tensors.push_back({"w", into.rows(2, 5), {5}, 2});
    load(folder, to, *single);
    for (size_t i = 0; i < exact.size(); ++i) {
      if (widens) {
        EXPECT_EQ(into.data<float>()[i], static_cast<float>(narrow[i]));
      } else {
        EXPECT_EQ(into.data<BF16>()[i].bits, narrow[i].bits);
      }
    }
  }
}

TEST(Checkpointer, state_without_counters_takes_all) {
  TempFolder dir;
  save_ranks(1, dir.path(), 1, 3);
  TrainState s = make_state(9);
  s.counters.clear();
  load_one(dir.path() + "/step_00000001", s);
  EXPECT_EQ(s.counters, make_state(3).counters);
}

TEST(Checkpointer, bad_states_are_refused_before_anything_is_written) {
  const auto single = make_single();
  TempFolder dir;
  const std::string at = dir.path() + "/ckpt";
  TrainState twice = make_state(1), slash = make_state(1), at_sign = make_state(1), undefined = make_state(1),
             meta = make_state(1);
  twice.tensors[1].name = "trunk.w";
  slash.tensors[1].name = "a/b";
  at_sign.tensors[1].name = "trunk.w@0";
  undefined.tensors[1].value = Tensor();
  const auto stream = Stream::make_meta();
  meta.tensors[1].value = Tensor::empty({129}, DType::kF32, *stream);
  EXPECT_THROW(save(at, 1, twice, *single), ConfigError);
  EXPECT_THROW(save(at, 1, slash, *single), ConfigError);
  EXPECT_THROW(save(at, 1, at_sign, *single), ConfigError);
  EXPECT_THROW(save(at, 1, undefined, *single), ConfigError);
  EXPECT_THROW(save(at, 1, meta, *single), DeviceError);
  EXPECT_THROW(save(at, -1, make_state(1), *single), ConfigError);
  EXPECT_FALSE(fs::exists(at));
}

TEST(Checkpointer, same_step_is_replaced) {
  TempFolder dir;
  save_ranks(2, dir.path(), 5, 3);
  save_ranks(1, dir.path(), 5, 8);
  TrainState got = make_state(1);
  load_one(dir.path() + "/step_00000005", got);
  EXPECT_EQ(contents(got), contents(make_state(8)));
  EXPECT_EQ(list_checkpoints(dir.path()).size(), 1u);
  EXPECT_FALSE(fs::exists(dir.path() + "/step_00000005/shard_00001.h5"));
}

TEST(Checkpointer, pruning_keeps_the_newest_in_time) {
  TempFolder dir;
  for (int step : {10, 20, 30}) save_ranks(1, dir.path(), step, 1);
  save_ranks(1, dir.path(), 15, 2, {.keep_last = 2, .at_point = {}});  // went back to 10, then on
  EXPECT_EQ(latest(dir.path()), dir.path() + "/step_00000015");
  EXPECT_EQ(list_checkpoints(dir.path()),
            (std::vector<std::string>{dir.path() + "/step_00000015", dir.path() + "/step_00000030"}));
  EXPECT_EQ(prune(dir.path(), 1), std::vector<std::string>{dir.path() + "/step_00000030"});
  EXPECT_TRUE(prune(dir.path(), 1).empty());
  EXPECT_THROW(prune(dir.path(), 0), ConfigError);
  EXPECT_EQ(latest(dir.path()), dir.path() + "/step_00000015");
}

TEST(Checkpointer, lost_pointer_falls_back_to_the_highest_step) {
  TempFolder dir;
  EXPECT_EQ(latest(dir.path()), "");
  EXPECT_EQ(latest(dir.path() + "/absent"), "");
  for (int step : {10, 20}) save_ranks(1, dir.path(), step, 1);
  spit(dir.path() + "/latest", "step_00000010\n");
  EXPECT_EQ(latest(dir.path()), dir.path() + "/step_00000010");
  for (const char* text : {"step_00000099\n", "../../etc\n", ""}) {
    spit(dir.path() + "/latest", text);
    EXPECT_EQ(latest(dir.path()), dir.path() + "/step_00000020") << text;
  }
}

// The space is probed with an upper mark of the file's length; HDF5 must stay below it.
TEST(Checkpointer, many_small_tensors_fit_the_estimate) {
  TempFolder dir;
  std::vector<DatasetLayout> layout;
  for (int i = 0; i < 3000; ++i) layout.push_back({cat("language.layers.", i, ".attn.q.weight"), DType::kF32, {3}});
  const std::string path = dir.path() + "/many.h5";
  const std::vector<int64_t> offsets = create_shard(path, layout);
  EXPECT_EQ(std::set<int64_t>(offsets.begin(), offsets.end()).size(), layout.size());
  EXPECT_LE(static_cast<int64_t>(fs::file_size(path)), shard_bytes(layout));
  EXPECT_NE(message_of<IoError>([&] { create_shard(dir.path() + "/none/x.h5", layout); }).find("/none/x.h5"),
            std::string::npos);
}

TEST(Checkpointer, description_counts_tensor_bytes) {
  TempFolder dir;
  save_ranks(2, dir.path(), 7, 3);
  const CheckpointInfo info = describe(latest(dir.path()));
  int64_t bytes = 0;
  for (const StateTensor& t : make_state(3).tensors) bytes += t.value.nbytes();
  EXPECT_EQ(info.bytes, bytes);
  EXPECT_EQ(info.tensors, static_cast<int64_t>(make_state(3).tensors.size()));
  EXPECT_EQ(info.step, 7);
  EXPECT_EQ(info.model_fingerprint, "test model");
  EXPECT_GT(info.created_unix_ns, int64_t{1'700'000'000} * 1'000'000'000);
}

TEST(Checkpointer, h5py_reads_the_values) {
  TempFolder dir;
  save_ranks(2, dir.path(), 1, 3);
  const std::string command =
      cat(TPO_PYTHON " " TPO_SOURCE_DIR "/tests/checkpoint/read_h5py.py ", dir.path(), "/step_00000001 3");
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  EXPECT_NE(std::system((command + "1").c_str()), 0) << "the script must notice other values";
  run_ranks(3, [&](ProcessGroup& world) { save(dir.path(), 2, cut_state(world.rank()), world); });
  const std::string cut =
      cat(TPO_PYTHON " " TPO_SOURCE_DIR "/tests/checkpoint/read_h5py.py ", dir.path(), "/step_00000002 cut");
  EXPECT_EQ(std::system(cut.c_str()), 0) << cut;
}

}  // namespace
}  // namespace tpo
