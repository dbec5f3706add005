#include "parallel/comm/comm_log.h"

#include <gtest/gtest.h>

#include "parallel/comm/threads.h"

namespace tpo {
namespace {

CommRequest of(const std::string& what, int64_t count = 100) {
  CommRequest r;
  r.op = CommOp::kAllReduce, r.dtype = DType::kF32;
  r.count = count, r.size = 2;
  r.group = "world.data", r.what = what;
  return r;
}

// Seconds on a clock of the test's own, so that every sum is exact: powers of two only.
TEST(comm_log, time_in_flight_is_hidden_exposed_or_another_operations) {
  const struct {
    const char* name;
    WorkTimes times;  // issued, begun, done
    double wait_begin, wait_end, blocked_between;
    double hidden, late_rank, late_issue, link;
  } cases[] = {
      {"over before the wait", {0, 1, 4}, 8, 8, 0, 4, 0, 0, 0},
      {"nothing to hide behind", {8, 8, 16}, 8, 16, 0, 0, 0, 8, 0},
      {"computed for less than the transfer took", {4, 4, 12}, 8, 12, 0, 4, 0, 4, 0},
      {"computed for as long, but the transfer began late", {0, 12, 16}, 8, 16, 0, 8, 4, 0, 4},
      {"others came late, then nothing was left", {8, 12, 20}, 8, 20, 0, 0, 4, 8, 0},
      {"in queue behind a bucket that was waited for", {0, 8, 12}, 8, 12, 4, 4, 0, 0, 4},
      {"all of the time between was a wait for others", {4, 8, 12}, 8, 12, 4, 0, 0, 4, 0},
      {"done before it was issued, as a clock may say", {4, 4, 4}, 4, 4, 0, 0, 0, 0, 0},
  };
  for (const auto& c : cases) {
    const CommUse u = comm_use(of("b"), c.times, c.wait_begin, c.wait_end, c.blocked_between);
    EXPECT_EQ(u.hidden_s, c.hidden) << c.name;
    EXPECT_EQ(u.late_rank_s, c.late_rank) << c.name;
    EXPECT_EQ(u.late_issue_s, c.late_issue) << c.name;
    EXPECT_EQ(u.link_s, c.link) << c.name;
    EXPECT_EQ(u.total_s, c.times.done_s - c.times.issued_s) << c.name;
    EXPECT_EQ(u.exposed_s(), c.wait_end - c.wait_begin) << c.name;
    EXPECT_LE(u.hidden_s + u.exposed_s(), u.total_s) << c.name;
    EXPECT_EQ(u.bytes, 400);
  }
}

TEST(comm_log, sums_by_name_in_order_of_appearance_and_starts_anew) {
  CommLog log;
  // Two buckets issued at 0; the second waits for the link while the first is waited for.
  log.add(of("late first", 1), {0, 4, 8}, 4, 8, 0);
  log.add(of("bucket", 2), {0, 8, 16}, 8, 16, 0);
  log.add(of("bucket", 2), {32, 32, 64}, 32, 64, 12);
  EXPECT_EQ(log.blocked_s(), 4 + 8 + 32);
  const auto uses = log.take();
  ASSERT_EQ(uses.size(), 2u);
  EXPECT_EQ(uses[0].what, "late first");
  EXPECT_EQ(uses[1].what, "bucket");
  EXPECT_EQ(uses[1].operations, 2);
  EXPECT_EQ(uses[1].bytes, 16);
  EXPECT_EQ(uses[1].hidden_s, 4) << "the four seconds in a wait for the first one are no compute";
  EXPECT_EQ(uses[1].exposed_s(), 8 + 32);
  EXPECT_TRUE(log.take().empty());
  EXPECT_EQ(log.blocked_s(), 44);
}

TEST(comm_log, names_without_end_are_summed) {
  CommLog log;
  for (int i = 0; i < 5000; ++i) log.add(of(std::to_string(i)), {0, 0, 1}, 0, 1, 0);
  const auto uses = log.take();
  EXPECT_EQ(uses.size(), 4097u);
  EXPECT_EQ(uses.back().what, "others");
  EXPECT_EQ(uses.back().operations, 5000 - 4096);
}

// What threads did is not known, but every second in a wait has one place.
TEST(comm_log, exposed_seconds_of_all_groups_are_the_seconds_in_waits) {
  run_ranks(3, [](ProcessGroup& world) {
    const auto part = world.split(world.rank() / 2, world.rank(), "part");
    world.log().take();
    const double before = world.log().blocked_s();
    const Tensor t = Tensor::zeros({1 << 14});
    for (int i = 0; i < 20; ++i) {
      Work a = world.all_reduce(t, ReduceOp::kSum, "a"), b = part->broadcast(t.rows(0, 0), 0, "b");
      a.wait_host();
      b.wait_host();
    }
    double exposed = 0;
    for (const CommUse& u : part->log().take()) {
      exposed += u.exposed_s();
      EXPECT_GE(u.late_rank_s, 0);
      EXPECT_GE(u.hidden_s, 0);
      EXPECT_EQ(u.operations, 20);
    }
    EXPECT_NEAR(exposed, world.log().blocked_s() - before, 1e-9);  // 40 additions of doubles below 100 s
  });
}

}  // namespace
}  // namespace tpo
