#include "launcher/overlap.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launcher/trainer.h"
#include "parallel/comm/threads.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

// 1 MiB a second where nothing else is said: total, transfer, hidden, then exposed by reason.
CommUse use(const std::string& what, int64_t mib, double total, double transfer, double hidden, double late_rank,
            double late_issue, double link, CommOp op = CommOp::kAllReduce) {
  return {"world.data.buckets", what, op, 1, mib << 20, total, transfer, hidden, late_rank, late_issue, link};
}

TEST(overlap, names_the_reason) {
  const std::vector<CommUse> uses = {
      use("bucket 0", 8, 8, 8, 8, 0, 0, 0),                      // hidden, the fastest
      use("bucket 1", 8, 8, 8, 7.9, 0, 0.1, 0),                  // 1.25 % exposed
      use("bucket 2", 8, 16, 8, 4, 12, 0, 0),                    // waited for others
      use("bucket 3", 8, 8, 8, 0, 0, 8, 0),                      // nothing left to hide behind
      use("bucket 4", 8, 32, 8, 20, 1, 1, 10),                   // behind others on the link
      use("bucket 5", 1, 4, 4, 0, 0, 4, 0),                      // a quarter of a MiB a second
      use("bucket 6", 1, 1, 1, 0, 0, 1, 0),                      // as small, but as fast as any
      use("mlp.down", 8, 8, 8, 0, 0, 8, 0),                      // no bucket: needed at once
      use("bucket 7", 8, 8, 8, 0, 0, 8, 0, CommOp::kAllGather),  // weights, needed at once
  };
  const char* reasons[] = {"hidden", "hidden",        "late rank",  "late gradient", "link",
                           "small",  "late gradient", "no compute", "no compute"};
  for (size_t i = 0; i < uses.size(); ++i) EXPECT_STREQ(overlap_reason(uses[i], uses), reasons[i]) << uses[i].what;
}

// Ranks with known numbers: means over the ranks that have a name, the slowest rank of each pair.
TEST(overlap, a_report_joins_the_ranks) {
  run_ranks(2, [](ProcessGroup& world) {
    OverlapMeter meter;
    const double r = world.rank();
    meter.steps = 4, meter.seconds = 4 * (16 + 16 * r);
    for (int step = 0; step < 4; ++step)
      meter.add_uses({use("bucket 0", 8, 8, 8, 8 - r, 0, r, 0), use(cat("only ", r), 2, 2, 2, 0, 2, 0, 0)});
    meter.pairs = {{32, 16 + r, 16}, {64, 32 + 8 * r, 32 - r}, {8, 4 - r, 4}};
    const OverlapReport report = gather_overlap(meter, world);
    if (world.rank() != 0) {
      EXPECT_TRUE(report.uses.empty());
      return;
    }
    EXPECT_EQ(report.steps, 4);
    EXPECT_EQ(report.step_s, 32);
    ASSERT_EQ(report.uses.size(), 3u);
    EXPECT_EQ(report.uses[0].hidden_s, 7.5);
    EXPECT_EQ(report.uses[0].exposed_s(), 0.5);
    EXPECT_EQ(report.uses[0].operations, 4);
    EXPECT_EQ(report.uses[2].what, "only 1");
    EXPECT_EQ(report.uses[2].late_rank_s, 2);
    EXPECT_EQ(report.exposed_s(), 4.5);
    EXPECT_EQ(report.exposed_share(), 4.5 / 32);
    EXPECT_EQ(report.stub_share, 1.0 / 32);  // of 1 / 32, 8 / 64 and 0 / 8
    const std::string table = overlap_table(report), line = overlap_json(report, 9).str();
    for (const char* want :
         {"exposed 14.06 %", "/ step 3.12 %", "world.data.buckets", "all_reduce bucket 0", "late rank"})
      EXPECT_NE(table.find(want), std::string::npos) << want << " in\n" << table;
    EXPECT_EQ(json_text(line, "table"), table);
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["kind"], "overlap");
    EXPECT_EQ(json["step"], 9);
    EXPECT_EQ(json["groups"][0]["operations"][0]["hidden_s"], 7.5);
    EXPECT_EQ(json["groups"][0]["operations"][2]["bytes"], 2 << 20);
    EXPECT_EQ(json["groups"][0]["exposed_s"], 4.5);
    EXPECT_NE(overlap_table(report, 1).find("and 2 more"), std::string::npos);
  });
}

TEST(overlap, steps_run_twice_change_no_bit_and_are_not_counted_twice) {
  const auto run = [](int ranks, const std::vector<std::string>& layout, bool pairs) {
    std::pair<uint64_t, int64_t> hash_and_reductions;
    const auto c = TinyRun::get().config(layout);
    const TrainingData data = make_training_data(c);
    run_ranks(ranks, [&](ProcessGroup& world) {
      Trainer t(c, data, world);
      for (int s = 0; s < 6; ++s) {
        if (pairs && s != 1) t.pair_next_step();
        t.step();
      }
      const OverlapReport report = t.overlap(), after = t.overlap();
      EXPECT_NO_THROW(t.sync().with_full_values([] {})) << "as evaluation does";
      const uint64_t mine = t.parameter_hash();
      if (world.rank() != 0) return;
      EXPECT_EQ(report.steps, 6);
      EXPECT_EQ(report.pairs, pairs ? 5 : 0);
      hash_and_reductions.first = mine;
      for (const CommUse& u : report.uses)
        if (u.op == CommOp::kAllReduce || u.op == CommOp::kReduceScatter) hash_and_reductions.second += u.operations;
      EXPECT_EQ(report.uses.empty(), ranks == 1);
      EXPECT_EQ(after.steps, 0);
    });
    return hash_and_reductions;
  };
  const std::pair<int, std::vector<std::string>> layouts[] = {
      {1, {}},
      {3, {}},
      {2, {"layout.zero=1"}},
      {2, {"layout.zero=2"}},
      {2, {"layout.zero=3"}},
      {2, {"layout.tensor=2"}},
      {4, {"layout.tensor=2", "layout.zero=3", "layout.sequence_parallel=true"}},
  };
  for (const auto& [ranks, layout] : layouts)
    EXPECT_EQ(run(ranks, layout, true), run(ranks, layout, false))
        << ranks << " ranks " << (layout.empty() ? "" : layout[0]);
}

}  // namespace
}  // namespace tpo
