#include "launcher/step_profile.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "parallel/comm/threads.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

using Json = nlohmann::json;

Json read_json(const std::string& path) {
  std::ifstream in(path);
  EXPECT_TRUE(in.good()) << path;
  return Json::parse(in);
}

struct Result {
  uint64_t hash = 0;
  std::string folder, printed;
  int times_printed = 0;
};

// What train does with its steps, on `ranks` ranks of this process.
Result run(int ranks, const std::vector<std::string>& sets) {
  const auto c = TinyRun::get().config(sets);
  const TrainingData data = make_training_data(c);
  Result result;
  result.folder = c.run().folder() + "/" + c.profile().folder();
  run_ranks(ranks, [&](ProcessGroup& world) {
    Trainer t(c, data, world);
    StepProfile profile(c, 0, world.rank(), ranks, 100);
    while (t.steps_done() < c.train().steps()) {
      profile.step(t);
      const std::string table = profile.take_table();
      EXPECT_TRUE(world.rank() == 0 || table.empty());
      if (!table.empty()) result.printed = table, ++result.times_printed;
    }
    const uint64_t hash = t.parameter_hash();
    if (world.rank() == 0) result.hash = hash;
  });
  return result;
}

// Every event of a trace lies within a step, and the steps are those asked for.
void check_trace(const Json& trace, int rank, int steps) {
  std::vector<std::pair<double, double>> step;
  std::map<std::string, int> seen;
  constexpr double kNs = 1e-3;  // in microseconds; times are whole ns
  for (const Json& e : trace["traceEvents"]) {
    EXPECT_EQ(e["pid"], rank);
    if (e["ph"] == "X" && e["name"] == "step")
      step.emplace_back(e["ts"], e["ts"].get<double>() + e["dur"].get<double>());
  }
  EXPECT_EQ(step.size(), static_cast<size_t>(steps));
  for (const Json& e : trace["traceEvents"]) {
    ++seen[e["ph"].get<std::string>() + " " + e["name"].get<std::string>()];
    if (e["ph"] == "M") continue;
    const double begin = e["ts"], end = e["ph"] == "X" ? begin + e["dur"].get<double>() : begin;
    EXPECT_TRUE(std::any_of(step.begin(), step.end(), [&](const auto& s) {
      return begin >= s.first - kNs && end <= s.second + kNs;
    })) << e;
    if (e["ph"] == "X" && e["cat"] == "kernel") {
      EXPECT_GE(e["args"]["flops"], 0);
      EXPECT_GT(e["args"]["bytes"], 0) << e;
    }
  }
  for (const char* want : {"M process_name", "M thread_name", "X forward", "X decoder", "X backward", "X optimizer",
                           "X wait for loader", "X wait for reduction", "X linear (backward)", "X gemm"})
    EXPECT_GT(seen[want], 0) << want;
}

TEST(step_profile, writes_a_table_and_a_trace_of_every_rank_and_changes_no_bit_of_the_run) {
  for (const int ranks : {1, 2}) {
    const Result plain = run(ranks, {"train.steps=6"});
    EXPECT_FALSE(std::filesystem::exists(plain.folder));
    EXPECT_EQ(plain.times_printed, 0);
    const Result r = run(ranks, {"train.steps=6", "profile.steps=3"});
    EXPECT_EQ(r.hash, plain.hash) << ranks;
    EXPECT_EQ(r.times_printed, 1);
    for (const char* want : {"steps 3 to 5", "linear (backward)", "outside kernels", "% of peak"})
      EXPECT_NE(r.printed.find(want), std::string::npos) << want << " in\n" << r.printed;
    for (int rank = 0; rank < ranks; ++rank)
      check_trace(read_json(r.folder + "/trace_rank" + std::to_string(rank) + ".json"), rank, 3);
    const Json table = read_json(r.folder + "/table.json");
    EXPECT_EQ(table["first_step"], 2);
    EXPECT_EQ(table["steps"], 3);
    int64_t ns = 0, outside = 0, flops = 0;
    double share = 0;
    for (const Json& row : table["rows"]) {
      EXPECT_GE(row["ns"], 0) << row;
      ns += row["ns"].get<int64_t>(), share += row["share_percent"].get<double>();
      outside += row["kind"] == "outside" ? row["ns"].get<int64_t>() : 0;
      flops += row["flops_executed"].get<int64_t>();
    }
    EXPECT_EQ(ns, table["ns"]);
    EXPECT_NEAR(share, 100, 1e-5);  // nine digits a row, at most 100 rows
    EXPECT_GT(outside, 0);
    EXPECT_GT(flops, 0);
    std::ifstream text(r.folder + "/table.txt");
    const std::string all((std::istreambuf_iterator<char>(text)), std::istreambuf_iterator<char>());
    EXPECT_EQ(all.find("more in table.txt"), std::string::npos) << "the file has every row";
    EXPECT_EQ(all.find("all-reduce:") != std::string::npos, ranks > 1);
  }
}

TEST(step_profile, follows_a_run_that_continues) {
  const struct {
    const char* first;
    int64_t done, want_first, want_end;
  } cases[] = {{"-1", 0, 2, 5}, {"-1", 4, 6, 9}, {"-1", 6, 7, 10}, {"-1", 8, 8, 10}, {"-1", 10, 10, 10},
               {"0", 0, 0, 3},  {"5", 0, 5, 8},  {"5", 6, 6, 8},   {"7", 0, 7, 10}};
  for (const auto& k : cases) {
    const auto c = TinyRun::get().config({"profile.steps=3", std::string("profile.first_step=") + k.first});
    const ProfileRange r = profile_range(c, k.done);
    EXPECT_EQ(r.first, k.want_first) << k.first << " after " << k.done;
    EXPECT_EQ(r.end, k.want_end) << k.first << " after " << k.done;
  }
  const auto c = TinyRun::get().config({"profile.steps=2", "profile.first_step=1", "train.steps=6"});
  const TrainingData data = make_training_data(c);
  const auto world = make_single();
  std::string saved;
  {
    Trainer t(c, data, *world);
    StepProfile profile(c, 0, 0, 1, 0);
    for (int s = 0; s < 2; ++s) profile.step(t);
    EXPECT_EQ(profile.take_table(), "");
    saved = t.save();
  }
  // One of the two steps is left to the run that continues, which is not another run for being measured otherwise.
  auto changed = c;
  changed.mutable_profile()->set_folder("again");
  Trainer t(changed, data, *world);
  EXPECT_EQ(t.resume(saved), "");
  StepProfile profile(changed, t.steps_done(), 0, 1, 0);
  profile.step(t);
  EXPECT_NE(profile.take_table().find("steps 3 to 3"), std::string::npos);
  EXPECT_EQ(read_json(c.run().folder() + "/again/table.json")["steps"], 1);
  StepProfile late(changed, 4, 0, 1, 0);
  EXPECT_NE(late.take_table().find("2 to 3, are done already"), std::string::npos);
}

TEST(step_profile, the_meta_device_gives_the_profile_of_its_virtual_clock) {
  const auto c = TinyRun::get().config({"run.device=meta", "profile.steps=1", "train.steps=3"});
  const TrainingData data = make_training_data(c);
  const auto world = make_single();
  Trainer t(c, data, *world);
  StepProfile profile(c, 0, 0, 1, 0);
  for (int s = 0; s < 3; ++s) profile.step(t);
  const Json table = read_json(c.run().folder() + "/profile/table.json");
  EXPECT_GT(table["ns"], 0);
  for (const Json& row : table["rows"]) EXPECT_TRUE(row["kind"] == "kernel" || row["ns"] == 0) << row;
}

}  // namespace
}  // namespace tpo
