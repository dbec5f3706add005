#include "launcher/commands/bench_comm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launcher/commands/bench_verbs.h"
#include "parallel/comm/threads.h"

namespace tpo {
namespace {

using Json = nlohmann::json;

const std::vector<CommKind> kEvery{CommKind::kAllReduce, CommKind::kReduceScatter, CommKind::kAllGather,
                                   CommKind::kBroadcast, CommKind::kBarrier,       CommKind::kPingPong,
                                   CommKind::kExchange};

// Says that it has done everything and does nothing, but for what `works` says.
class Lying final : public ProcessGroup {
 public:
  Lying(ProcessGroup& real, CommOp lies_about)
      : ProcessGroup(real.rank(), real.size(), "lying"), real_(real), lies_about_(lies_about) {}

 protected:
  struct Done final : WorkState {
    using WorkState::WorkState;
    bool done() override { return true; }
    void wait() override {}
  };
  std::shared_ptr<WorkState> issue(std::shared_ptr<const CommRequest> r) override {
    if (r->op == CommOp::kBarrier) real_.barrier("through").wait_host();
    if (r->op != lies_about_) std::abort();
    return std::make_shared<Done>(std::move(r));
  }
  std::unique_ptr<ProcessGroup> do_split(int, int, std::string) override { return nullptr; }

 private:
  ProcessGroup& real_;
  CommOp lies_about_;
};

TEST(bench_comm, bandwidth_is_that_of_nccl_tests) {
  // 64 MiB in 10 ms are 6.7108864 GB/s.
  const struct {
    CommKind kind;
    int ranks;
    double bus;
  } cases[] = {{CommKind::kAllReduce, 2, 6.7108864},
               {CommKind::kAllReduce, 4, 10.0663296},
               {CommKind::kReduceScatter, 2, 3.3554432},
               {CommKind::kReduceScatter, 4, 5.0331648},
               {CommKind::kAllGather, 8, 5.8720256},
               {CommKind::kBroadcast, 8, 6.7108864},
               {CommKind::kPingPong, 2, 6.7108864},
               {CommKind::kExchange, 3, 6.7108864},
               {CommKind::kAllReduce, 1, 0}};
  for (const auto& k : cases) {
    CommLine line{.kind = k.kind, .bytes = 64 << 20, .ranks = k.ranks, .times = {{.by = "ours", .median_s = 0.01}}};
    EXPECT_NEAR(line.algorithm_gb_s(line.times[0]), 6.7108864, 1e-12);
    EXPECT_NEAR(line.bus_gb_s(line.times[0]), k.bus, 1e-12) << name_of(k.kind) << " on " << k.ranks;
  }
}

TEST(bench_comm, ratios_are_medians_of_pairs) {
  const CommTimes a{.by = "ours", .samples = {1, 2, 4, 1}}, b{.by = "mpi", .samples = {3, 2, 8, 5}};
  EXPECT_EQ(speed_ratio(a, b), 2.5);  // of 3, 1, 2, 5
  EXPECT_EQ(median_of({3, 1, 2}), 2);
}

// Every kind on 1 to 4 ranks: figures of a line fit each other, and all ranks get the same.
TEST(bench_comm, lines_are_consistent) {
  for (const int ranks : {1, 2, 3, 4}) {
    run_ranks(ranks, [&](ProcessGroup& world) {
      const auto mpi = world.split(0, world.rank(), "as mpi");
      const std::vector<int> nodes(static_cast<size_t>(ranks), 0);
      const BenchGroup group = make_bench_group("world", world, mpi.get(), nodes);
      CommBenchOptions o{.kinds = ranks == 1 ? std::vector{CommKind::kCopy} : kEvery,
                         .sizes = {1, 1000, (1 << 20) + 4}};
      o.iterations = 3;
      o.line_seconds = 1e-9;  // fewer rounds than five only where fewer are asked for
      std::string all;
      size_t lines = 0;
      measure_comm(world, group, o, [&](const CommLine& line) {
        ++lines;
        EXPECT_EQ(line.ranks, ranks);
        const bool shared = line.kind == CommKind::kReduceScatter || line.kind == CommKind::kAllGather;
        EXPECT_EQ(line.bytes, line.count * 4 * (shared ? ranks : 1));
        EXPECT_TRUE(line.kind == CommKind::kBarrier || line.count >= 1);
        for (const CommTimes& t : line.times) {
          EXPECT_EQ(t.samples.size(), 3u);
          EXPECT_TRUE(0 < t.min_s && t.min_s <= t.median_s && t.median_s <= t.p99_s) << t.by;
        }
        EXPECT_EQ(line.find("mpi") != nullptr, ranks > 1);
        const bool collective = line.kind < CommKind::kBarrier;
        EXPECT_EQ(line.best_bucketed() != nullptr, ranks > 1 && collective && line.bytes > (1 << 20) - 4 * ranks);
        const Json json = Json::parse(comm_line_json("world", line));
        all += json.dump();
        EXPECT_EQ(json["bytes"], line.bytes);
        const Json& ours = json["times"][0];
        EXPECT_NEAR(
            ours["bus_gb_s"].get<double>(),
            static_cast<double>(line.bytes) / ours["median_us"].get<double>() * 1e-3 * bus_factor(line.kind, ranks),
            1e-6 * ours["algorithm_gb_s"].get<double>());  // nine digits are printed
        EXPECT_NE(comm_table_rows(line).find(name_of(line.kind)), std::string::npos);
      });
      EXPECT_EQ(lines, ranks == 1 ? 3 : 6 * 3 + 1);
      const auto texts = world.all_gather_bytes(std::as_bytes(std::span(all)));
      EXPECT_EQ(texts[0], texts.back());
    });
  }
}

TEST(bench_comm, a_wrong_result_is_named) {
  const struct {
    CommKind kind;
    CommOp op;
    const char* message;
  } cases[] = {
      // Element 0 of rank r is 13 r + 1: the sum of two is 15, what rank 1 has is 14, and what it should get is 1.
      {CommKind::kAllReduce, CommOp::kAllReduce, "all_reduce of 64 bytes in group world by mpi: element 0 on rank"},
      {CommKind::kReduceScatter, CommOp::kReduceScatter, "reduce_scatter of 64 bytes in group world by mpi: element 0"},
      {CommKind::kAllGather, CommOp::kAllGather, "is -1, expected 1"},
      {CommKind::kBroadcast, CommOp::kBroadcast, "element 0 on rank 1 is 14, expected 1"},
  };
  for (const auto& k : cases) {
    try {
      run_ranks(2, [&](ProcessGroup& world) {
        BenchGroup group = make_bench_group("world", world, nullptr, {0, 0});
        group.mpi = std::make_unique<Lying>(world, k.op);
        measure_comm(world, group, {.kinds = {k.kind}, .sizes = {64}}, [](const CommLine&) {});
      });
      ADD_FAILURE() << k.message;
    } catch (const CommError& e) {
      EXPECT_NE(std::string(e.what()).find(k.message), std::string::npos) << e.what();
    }
  }
}

TEST(bench_comm, pairs_are_of_neighbouring_nodes) {
  run_ranks(6, [](ProcessGroup& world) {
    // Nodes of 2, 2, and 2 ranks, placed in turns; the third node has no neighbour.
    const std::vector<int> nodes{0, 1, 2, 0, 1, 2};
    const BenchGroup node = make_bench_group("node", world, nullptr, nodes);
    EXPECT_EQ(node.ours->size(), 2);
    EXPECT_EQ(node.ours->rank(), world.rank() / 3);
    const BenchGroup pairs = make_bench_group("pairs", world, nullptr, nodes);
    EXPECT_EQ(pairs.ours->size(), world.rank() % 3 == 2 ? 1 : 2);
    EXPECT_EQ(pairs.ranks, 2);
    EXPECT_EQ(pairs.smallest, 1);
    int lines = 0;
    measure_comm(world, pairs, {.kinds = {CommKind::kAllReduce}, .sizes = {8}, .iterations = 2},
                 [&](const CommLine& line) { lines += line.ranks == 2 && line.times.size() == 2 ? 1 : 0; });
    EXPECT_EQ(lines, 1);
  });
}

TEST(bench_comm, sizes_are_read) {
  EXPECT_EQ(parse_bytes("8"), 8);
  EXPECT_EQ(parse_bytes("1.5K"), 1536);
  EXPECT_EQ(parse_bytes("64M"), 64 << 20);
  for (const char* bad : {"", "M", "-1", "0", "1T", "1KB", "nan", "65G"})
    EXPECT_THROW(parse_bytes(bad), ConfigError) << bad;
}

}  // namespace
}  // namespace tpo
