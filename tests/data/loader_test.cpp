#include "data/loader.h"

#include <algorithm>
#include <atomic>
#include <fstream>

#include "data/length_index.h"
#include "tests/data/data_fixture.h"
#include "tests/data/small_tokenizer.h"

namespace tpo {
namespace {

using testing::message_of;

class LoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<testing::Packed> regions, texts;
    for (int i = 0; i < 11; ++i) regions.push_back(testing::region_sample(cat("r", i), i));
    for (int i = 0; i < 5; ++i)
      texts.push_back(testing::text_sample(cat("t", i), "How many?", cat("There are ", i, ".")));
    testing::write_dataset(dir_ / "r", regions);
    testing::write_dataset(dir_ / "t", texts, "conversation");
    open();
  }
  void open() {
    r_ = std::make_unique<DatasetFolder>(dir_ / "r");
    t_ = std::make_unique<DatasetFolder>(dir_ / "t");
  }
  Mixer mixer(int64_t per_step = 5) const {
    return Mixer(
        3, {{"r", 2, build_length_index(*r_, templates_, 1), 2}, {"t", 1, build_length_index(*t_, templates_, 1), 3}},
        per_step);
  }
  std::vector<LoaderDataset> sets() const { return {{r_.get(), &templates_}, {t_.get(), &templates_}}; }

  testing::ScratchFolder dir_;
  std::unique_ptr<SentencePieceTokenizer> tok_ = testing::small_tokenizer();
  Templates templates_{*tok_, {.max_tokens = 256, .image_slots = 4}};
  std::unique_ptr<DatasetFolder> r_, t_;
  LoaderOptions options_ = [] {
    LoaderOptions o;
    o.collate.image_size = 16;
    return o;
  }();
};

void expect_same(const HostBatch& a, const HostBatch& b) {
  EXPECT_EQ(a.sample_ids, b.sample_ids);
  ASSERT_EQ(a.arrays.size(), b.arrays.size());
  for (const auto& [name, array] : a.arrays) EXPECT_EQ(array.bytes, b.arrays.at(name).bytes) << name;
}

TEST_F(LoaderTest, threads_prefetch_world_and_start_do_not_change_a_step) {
  const Mixer m = mixer();
  std::vector<std::vector<HostBatch>> want;
  {
    Loader loader(m, sets(), options_);
    for (int s = 0; s < 6; ++s) {
      LocalStep step = loader.next();
      EXPECT_EQ(step.plan.step, s);
      EXPECT_GE(step.wait_s, 0);
      want.push_back(std::move(step.batches));
      ASSERT_EQ(want.back().size(), 5u);
    }
  }
  options_.threads = 4;
  options_.prefetch_steps = 3;
  options_.start_step = 2;
  for (int world : {1, 2, 3, 7}) {
    for (int s = 2; s < 6; ++s) {
      size_t next = 0;
      for (int rank = 0; rank < world; ++rank) {
        options_.world = world, options_.rank = rank, options_.start_step = s;
        Loader loader(m, sets(), options_);
        for (const HostBatch& b : loader.next().batches) expect_same(b, want[static_cast<size_t>(s)][next++]);
      }
      EXPECT_EQ(next, 5u);
    }
  }
}

TEST_F(LoaderTest, it_ends_where_it_was_told) {
  const Mixer m = mixer();
  options_.start_step = 8, options_.end_step = 10, options_.prefetch_steps = 5;
  Loader loader(m, sets(), options_);
  EXPECT_EQ(loader.next().plan.step, 8);
  EXPECT_EQ(loader.next().plan.step, 9);
  EXPECT_THROW(loader.next(), ConfigError);
}

TEST_F(LoaderTest, it_can_be_dropped_at_any_time) {
  const Mixer m = mixer(16);
  options_.threads = 3, options_.prefetch_steps = 4;
  for (int i = 0; i < 20; ++i) {
    Loader loader(m, sets(), options_);
    for (int k = 0; k < i % 3; ++k) loader.next();
  }
}

TEST_F(LoaderTest, a_damaged_record_comes_out_of_its_step_and_names_the_record) {
  const Mixer m = mixer();
  const RawSample victim = r_->read(7);
  const std::string shard = dir_ / "r/shard-00000.h5";
  const size_t at = read_file(shard).find(testing::text_of(victim.media.view()));
  ASSERT_NE(at, std::string::npos);
  std::fstream(shard, std::ios::in | std::ios::out | std::ios::binary)
      .seekp(static_cast<std::streamoff>(at + 9))
      .put('!');
  int64_t bad = 0;  // the first step that holds record 7
  const auto holds = [&](int64_t s) {
    const StepPlan p = m.plan(s);
    return std::any_of(p.slots.begin(), p.slots.end(), [](const Slot& x) { return x.dataset == 0 && x.sample == 7; });
  };
  while (!holds(bad)) ++bad;
  for (int threads : {1, 3}) {
    options_.threads = threads, options_.prefetch_steps = 3;
    std::atomic<int> reading{0};
    options_.on_read = [&](int, const std::string&, int64_t, bool begin) { reading += begin ? 1 : -1; };
    {
      Loader loader(m, sets(), options_);
      for (int64_t s = 0; s < bad; ++s) EXPECT_EQ(loader.next().plan.step, s);
      const std::string message = message_of<DataError>([&] { loader.next(); });
      EXPECT_HAS(message, cat("step ", bad));
      EXPECT_HAS(message, "record 7");
      EXPECT_EQ(message_of<DataError>([&] { loader.next(); }), message);
    }
    EXPECT_EQ(reading, 0) << "an error ends the reading too";
  }
}

TEST_F(LoaderTest, a_sample_that_disagrees_with_the_index_stops_the_run) {
  auto lengths = build_length_index(*r_, templates_, 1);
  for (auto& e : lengths) ++e.loss_tokens;
  const Mixer m(3, {{"r", 1, lengths, 2}}, 2);
  Loader loader(m, {{r_.get(), &templates_}}, options_);
  const std::string said = message_of<DataError>([&] { loader.next(); });
  EXPECT_HAS(said, "rebuild the index");
  EXPECT_HAS(said, " labels (");
  EXPECT_EQ(said.find(" tokens ("), std::string::npos) << said;
}

TEST_F(LoaderTest, illegal_options_are_named) {
  const Mixer m = mixer();
  const auto bad = [&](auto&& change) {
    LoaderOptions o = options_;
    change(o);
    EXPECT_THROW(Loader(m, sets(), o), ConfigError);
  };
  bad([](LoaderOptions& o) { o.threads = 0; });
  bad([](LoaderOptions& o) { o.prefetch_steps = 0; });
  bad([](LoaderOptions& o) { o.rank = 1; });
  bad([](LoaderOptions& o) { o.start_step = -1; });
  EXPECT_THROW(Loader(m, {sets()[0]}, options_), ConfigError);
  EXPECT_THROW(Loader(m, {sets()[1], sets()[0]}, options_), ConfigError);
}

}  // namespace
}  // namespace tpo
