// Verdicts of constructed snapshots: every cause, and the culprit where several groups wait on each other.
#include <gtest/gtest.h>

#include <cstring>

#include "core/error.h"
#include "core/rng.h"
#include "parallel/program/verdict.h"

namespace tpo {
namespace {

// Ranks of a job; groups by name, each rank with how much it issued and whether it waits.
class Job {
 public:
  explicit Job(int ranks) {
    for (int r = 0; r < ranks; ++r) {
      RankView& v = views.emplace_back();
      v.facts.rank = r, v.facts.world = ranks, v.facts.pid = 1000 + r;
      v.facts.step = 7, v.facts.steps_here = 100, v.facts.longest_step_s = 0.1;
      std::strcpy(v.facts.host, "n04");
      std::strcpy(v.facts.phase, "backward");
      v.facts.phase_s = 6;
    }
  }

  void group(const std::string& name, const std::vector<int>& ranks) {
    for (size_t i = 0; i < ranks.size(); ++i) {
      GroupView& g = views[static_cast<size_t>(ranks[i])].groups.emplace_back();
      std::snprintf(g.name, sizeof g.name, "%s", name.c_str());
      g.id = hash_name(name);
      for (const int r : ranks) g.id = mix64(g.id ^ static_cast<uint64_t>(r));
      g.rank = static_cast<int>(i), g.size = static_cast<int>(ranks.size());
      const auto runs = runs_of(ranks);
      g.run_count = static_cast<int>(runs.size());
      std::copy(runs.begin(), runs.end(), g.runs);
      g.issued = g.completed = 30;
    }
  }
  GroupView& at(int rank, const std::string& name) {
    for (GroupView& g : views[static_cast<size_t>(rank)].groups)
      if (name == g.name) return g;
    throw DataError(name);
  }
  static OpView op(const std::string& what, uint64_t seq, double age, int64_t count = 1024,
                   CommOp kind = CommOp::kAllReduce) {
    OpView o;
    o.e.index = 1, o.e.seq = seq, o.e.count = count, o.e.op = kind, o.e.dtype = DType::kF32;
    o.e.hash = operation_hash("g", kind, DType::kF32, count, what);
    std::snprintf(o.e.text, sizeof o.e.text, "%s", what.c_str());
    o.age_s = age;
    return o;
  }
  // The rank has issued #30 and waits for it.
  void wait(int rank, const std::string& name, double age, const std::string& what = "bucket 3", int64_t count = 1024) {
    GroupView& g = at(rank, name);
    g.issued = 31;
    g.oldest = g.wait = op(what, 30, age, count);
  }
  RankFacts& facts(int rank) { return views[static_cast<size_t>(rank)].facts; }

  std::vector<Finding> verdict(VerdictLimits limits = {}) const { return diagnose(views, limits); }
  // The only finding.
  Finding one(Cause cause, int culprit, VerdictLimits limits = {}) const {
    const auto found = verdict(limits);
    EXPECT_EQ(found.size(), 1u);
    if (found.empty()) return {};
    EXPECT_EQ(static_cast<int>(found[0].cause), static_cast<int>(cause)) << found[0].text;
    EXPECT_EQ(found[0].culprit, culprit) << found[0].text;
    return found[0];
  }
  std::vector<RankView> views;
};

Job four(double age = 5.1) {
  Job job(4);
  job.group("world.data", {0, 1, 2, 3});
  for (const int r : {0, 2, 3}) job.wait(r, "world.data", age);
  return job;
}

TEST(RingVerdict, nobody_waits_nothing_is_said) {
  Job job(4);
  job.group("world.data", {0, 1, 2, 3});
  job.at(0, "world.data").issued = 40;  // much in flight, but nobody stands
  EXPECT_TRUE(job.verdict().empty());
}

TEST(RingVerdict, in_the_loader_with_dataset_and_record) {
  Job job = four();
  job.facts(1).loader_s = 5.3;
  job.facts(1).reading = Job::op("region-train", 0, 5.2, 17);
  EXPECT_EQ(
      job.one(Cause::kLoader, 1).text,
      "rank 1 (node n04, step 7, backward) has not entered all_reduce #30 of 'bucket 3' of group world.data, where "
      "ranks 0, 2, 3 wait since 5.1 s; it is in the data loader since 5.3 s, waiting for dataset region-train, record "
      "17");
  job = four(3.9);
  job.facts(1).loader_s = 5.3;
  EXPECT_TRUE(job.verdict().empty()) << "before the threshold";
}

TEST(RingVerdict, dead_stopped_failed) {
  for (const auto& [life, cause, says] : {std::tuple{Life::kDead, Cause::kDead, "process 1001 is gone"},
                                          {Life::kStopped, Cause::kStopped, "kill -CONT 1001"},
                                          {Life::kFailed, Cause::kFailed, "it failed: disk"}}) {
    Job job = four(1.2);
    job.facts(1).life = life;
    job.facts(1).life_s = 1.3;
    std::strcpy(job.facts(1).error, "disk");
    const Finding f = job.one(cause, 1);
    EXPECT_NE(f.text.find("has not entered all_reduce #30"), std::string::npos) << f.text;
    EXPECT_NE(f.text.find(says), std::string::npos) << f.text;
    // The same after it had entered.
    job.at(1, "world.data").issued = 31;
    job.at(1, "world.data").oldest = Job::op("bucket 3", 30, 2);
    EXPECT_NE(job.one(cause, 1).text.find("stands still in all_reduce #30"), std::string::npos);
    // And while nobody waits.
    Job alone(2);
    alone.facts(1).life = life;
    alone.facts(1).life_s = 4.1;
    EXPECT_NE(alone.one(cause, 1).text.find("nobody waits"), std::string::npos);
    alone.group("g", {0, 1});
    alone.at(0, "g").oldest = Job::op("bucket 3", 30, 0);
    EXPECT_NE(alone.one(cause, 1).text.find(
                  "has not entered all_reduce #30 of 'bucket 3' of group g, which rank 0 has issued"),
              std::string::npos);
  }
}

TEST(RingVerdict, a_rank_that_is_continued_at_once_is_no_alarm) {
  Job job = four(0.5);
  job.facts(1).life = Life::kStopped;
  job.facts(1).life_s = 0.6;
  EXPECT_TRUE(job.verdict().empty());
}

// Rank 2 was stopped while it waited in a step that the others have left since: they are not late.
TEST(RingVerdict, what_a_stopped_rank_waits_for_is_no_stall) {
  Job job(3);
  job.group("data", {0, 1, 2});
  job.group("buckets", {0, 1, 2});
  job.wait(2, "data", 9);
  for (const int r : {0, 1}) {
    job.at(r, "data").issued = job.at(r, "data").completed = 31;
    job.wait(r, "buckets", 5);
    job.facts(r).step = 8;
  }
  job.facts(2).life = Life::kStopped;
  job.facts(2).life_s = 9;
  EXPECT_EQ(job.one(Cause::kStopped, 2).waiting, (std::vector<int>{0, 1}));
}

TEST(RingVerdict, computing_is_judged_by_what_is_usual) {
  Job job = four(5);
  job.one(Cause::kComputes, 1);
  VerdictLimits slow_group;
  slow_group.longest_healthy_wait = [](uint64_t) { return 2.0; };
  EXPECT_TRUE(job.verdict(slow_group).empty()) << "waits of 2 s were healthy, so 6 s are the limit";
  job.facts(1).longest_step_s = 11;
  EXPECT_TRUE(job.verdict().empty()) << "half of its longest step is longer than the wait";
  job.facts(1).longest_step_s = 0.1;
  job.facts(1).steps_here = 2;
  EXPECT_TRUE(job.one(Cause::kComputes, 1).note) << "what is usual is not known yet";
  for (const int r : {0, 2, 3}) job.wait(r, "world.data", 301);
  EXPECT_FALSE(job.one(Cause::kComputes, 1).note);
}

TEST(RingVerdict, evaluation_and_checkpoints_may_take_long) {
  Job job = four(200);
  job.facts(1).slow_phase = true;
  std::strcpy(job.facts(1).phase, "checkpoint");
  Finding f = job.one(Cause::kSlowPhase, 1);
  EXPECT_TRUE(f.note);
  EXPECT_EQ(f.phase, "checkpoint");
  for (const int r : {0, 2, 3}) job.wait(r, "world.data", 3.9);
  EXPECT_TRUE(job.verdict().empty());
  for (const int r : {0, 2, 3}) job.wait(r, "world.data", 301);
  f = job.one(Cause::kSlowPhase, 1);
  EXPECT_FALSE(f.note);
  EXPECT_NE(f.text.find("it is in checkpoint since"), std::string::npos);
}

TEST(RingVerdict, another_operation_or_size) {
  Job job = four(0.4);
  job.wait(1, "world.data", 0.4, "bucket 4");
  Finding f = job.one(Cause::kMismatch, 1);
  EXPECT_EQ(
      f.text,
      "ranks disagree in group world.data: rank 1 (node n04, step 7, backward) is in all_reduce #30 of 'bucket 4' "
      "(1024 f32) but ranks 0, 2, 3 are in all_reduce #30 of 'bucket 3' (1024 f32)");
  job.wait(1, "world.data", 0.4, "bucket 3", 1023);
  EXPECT_NE(job.one(Cause::kMismatch, 1).text.find("(1023 f32)"), std::string::npos);
  // The transport noticed first, so every rank has failed.
  for (int r = 0; r < 4; ++r) job.facts(r).life = Life::kFailed;
  job.one(Cause::kMismatch, 1);
}

// More in flight than a ring remembers: what is waited for is a later operation, and that proves nothing.
TEST(RingVerdict, an_operation_that_was_not_remembered_is_compared_with_nothing) {
  Job job(3);
  job.group("g", {0, 1, 2});
  for (const int r : {0, 1}) {
    GroupView& g = job.at(r, "g");
    g.issued = 130;
    g.wait = Job::op("bucket 99", 129, 0.4);
    if (r == 1) g.oldest = Job::op("bucket 0", 30, 0.4);
  }
  EXPECT_TRUE(job.verdict().empty());
  for (const int r : {0, 1}) job.at(r, "g").wait.age_s = 5;
  const Finding f = job.one(Cause::kComputes, 2);
  EXPECT_EQ(f.waiting, (std::vector<int>{0, 1}));
  job.at(1, "g").oldest = {};
  EXPECT_NE(job.one(Cause::kComputes, 2).text.find("has not entered all_reduce #30 (not remembered) of group g"),
            std::string::npos);
}

// Words of a history in which layers repeat their operations and sizes change from step to step, but not their pattern.
std::vector<uint64_t> history(int steps) {
  std::vector<uint64_t> words;
  const auto add = [&](int slot, const std::string& what, int64_t count) {
    words.push_back(habit_word(slot, operation_hash("g", CommOp::kAllReduce, DType::kF32, count, what)));
  };
  for (int step = 0; step < steps; ++step) {
    const int64_t rows = 48 * (100 + 7 * step % 11);
    for (int layer = 0; layer < 3; ++layer)
      for (const char* what : {"attention", "mlp", "mlp"}) add(0, what, layer == 0 ? 1024 : rows);
    add(0, "loss", rows / 16);
    for (int bucket = 0; bucket < 4; ++bucket) add(1, cat("bucket ", bucket), 1000 + bucket);
  }
  return words;
}

// Every operation of the last step left out or made smaller: the rank that did so fits worse than the one that did not,
// wherever they meet, though the last step's sizes are new.
TEST(RingVerdict, what_was_left_out_or_has_another_size_fits_worse) {
  const auto right = history(9);
  const size_t begin = history(8).size();
  const auto until = [](const std::vector<uint64_t>& words, size_t n) { return fit_of(std::span(words).first(n + 1)); };
  for (size_t at = begin; at + 1 < right.size(); ++at) {
    auto wrong = right;
    --wrong[at];
    EXPECT_LT(compare_fits(until(wrong, at), until(right, at), true), 0) << "size " << at - begin;
    wrong = right;
    wrong.erase(wrong.begin() + static_cast<std::ptrdiff_t>(at));
    size_t meet = at;  // operations that are repeated hide it for a while
    while (wrong[meet] == right[meet]) ++meet;
    const bool same_kind = wrong[meet] >> 32 == right[meet] >> 32;
    EXPECT_LT(compare_fits(until(wrong, meet), until(right, meet), same_kind), 0) << "left out " << at - begin;
  }
  EXPECT_EQ(compare_fits(fit_of(std::span(right).first(1)), until(right, 5), false), 0) << "nothing before it";
}

TEST(RingVerdict, of_two_that_disagree_the_one_whose_operation_fits_worse) {
  for (const int odd : {0, 1}) {
    Job job(2);
    job.group("g", {0, 1});
    for (const int r : {0, 1}) {
      job.wait(r, "g", 0.4, r == odd ? "bucket 4" : "bucket 3");
      job.at(r, "g").fit = {1, r == odd ? 1 : 900, 0, 1};
    }
    EXPECT_EQ(job.one(Cause::kMismatch, odd).suspects, std::vector<int>{odd});
    // Where nothing tells them apart, none is accused, and that only when no third rank can tell either.
    job.at(odd, "g").fit.follows = 900;
    EXPECT_TRUE(job.verdict().empty());
    for (const int r : {0, 1}) job.at(r, "g").wait.age_s = 1.1;
    const Finding f = job.one(Cause::kMismatch, 0);
    EXPECT_EQ(f.suspects, (std::vector<int>{0, 1}));
    EXPECT_NE(f.text.find("any of which may be wrong: rank 0 (node n04"), std::string::npos) << f.text;
    EXPECT_NE(f.text.find("but rank 1 (node n04"), std::string::npos) << f.text;
  }
}

TEST(RingVerdict, of_two_that_wait_for_each_other_the_one_whose_wait_fits_worse) {
  for (const int odd : {0, 1}) {
    Job job(2);
    job.group("a", {0, 1});
    job.group("b", {0, 1});
    for (const int r : {0, 1}) {
      job.wait(r, r == 0 ? "a" : "b", 1.1, "x");
      job.at(r, r == 0 ? "a" : "b").fit = {1, r == odd ? 3 : 900, 0, 1};
    }
    job.one(Cause::kLeftOut, odd);
  }
}

// Rank 1 left an operation of `data` out and stands in the next step's bucket.
TEST(RingVerdict, who_is_a_step_ahead_left_it_out) {
  Job job(2);
  job.group("data", {0, 1});
  job.group("buckets", {0, 1});
  job.wait(0, "data", 1.1, "step statistics");
  job.wait(1, "buckets", 1.1, "bucket 0");
  job.facts(1).step = 8;
  const Finding f = job.one(Cause::kLeftOut, 1);
  EXPECT_NE(f.text.find("has not entered all_reduce #30 of 'step statistics' of group data"), std::string::npos)
      << f.text;
  EXPECT_NE(f.text.find("it went past it and waits in all_reduce #30 of 'bucket 0' of group buckets"),
            std::string::npos);
}

TEST(RingVerdict, a_cycle_names_the_rank_that_most_wait_for_or_both) {
  Job job(3);
  job.group("data", {0, 1, 2});
  job.group("buckets", {0, 1, 2});
  for (const int r : {0, 2}) job.wait(r, "data", 5, "x");
  job.wait(1, "buckets", 5, "y");
  job.one(Cause::kLeftOut, 1);
  Job two(2);
  two.group("a", {0, 1});
  two.group("b", {0, 1});
  two.wait(0, "a", 5, "x");
  two.wait(1, "b", 5, "y");
  const Finding f = two.one(Cause::kDeadlock, 0);
  EXPECT_NE(f.text.find("they wait for each other"), std::string::npos) << f.text;
}

// 4 = 2 (data) x 2 (tensor): rank 3 is in its loader, 2 waits for it in tensor, 0 for 2 in data, 1 for 0 in tensor.
TEST(RingVerdict, the_chain_is_followed_to_its_root) {
  Job job(4);
  job.group("tensor", {0, 1});
  job.group("tensor", {2, 3});
  job.group("data", {0, 2});
  job.group("data", {1, 3});
  job.wait(2, "tensor", 5, "activation");
  job.wait(0, "data", 5, "bucket 1");
  job.wait(1, "tensor", 5, "activation");
  job.facts(3).loader_s = 6;
  const Finding f = job.one(Cause::kLoader, 3);
  EXPECT_EQ(f.waiting, std::vector<int>{2});
  EXPECT_NE(f.text.find("rank 2 waits since 5.0 s (and 0, 1 behind)"), std::string::npos) << f.text;
}

TEST(RingVerdict, messages) {
  Job job(2);
  job.group("pipe", {0, 1});
  GroupView& g = job.at(0, "pipe");
  g.wait = Job::op("activation", 0, 5, 512, CommOp::kRecv);
  g.wait.e.peer = 1, g.wait.e.tag = 3;
  EXPECT_NE(job.one(Cause::kComputes, 1).text.find("recv from rank 1 of the group, tag 3, of 'activation'"),
            std::string::npos);
  GroupView& other = job.at(1, "pipe");
  other.message_count = 1;
  other.messages[0] = Job::op("activation", 0, 5, 500, CommOp::kSend);
  other.messages[0].e.peer = 0, other.messages[0].e.tag = 3;
  const Finding f = job.one(Cause::kMismatch, 0);
  EXPECT_EQ(f.suspects, (std::vector<int>{0, 1})) << "a sender and a receiver: either may be wrong";
  for (const char* size : {"(512 f32)", "(500 f32)"}) EXPECT_NE(f.text.find(size), std::string::npos) << f.text;
}

TEST(RingVerdict, two_late_ranks_are_two_findings_and_an_unknown_one_is_named) {
  Job job = four(5);
  job.at(3, "world.data").issued = 30;
  job.at(3, "world.data").wait = {};
  job.facts(3).life = Life::kStopped;
  job.facts(3).life_s = 5;
  const auto found = job.verdict();
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].culprit, 3);
  EXPECT_EQ(found[1].culprit, 1);
  Job part = four(301);
  part.views.erase(part.views.begin() + 1);
  part.one(Cause::kUnknown, 1);
}

TEST(RingVerdict, all_arrived_and_nothing_moves) {
  Job job = four(301);
  job.wait(1, "world.data", 301);
  job.one(Cause::kTransport, 0);
}

TEST(RingVerdict, after_the_end_every_wait_counts) {
  Job job = four(0.01);
  for (int r = 0; r < 4; ++r) job.facts(r).life = r == 1 ? Life::kDead : Life::kTornDown;
  VerdictLimits limits;
  limits.post_mortem = true;
  job.one(Cause::kDead, 1, limits);
}

TEST(RingVerdict, lists_of_ranks) {
  EXPECT_EQ(text_of_ranks({0, 1, 2, 3}), "0-3");
  EXPECT_EQ(text_of_ranks({7, 0, 6, 2}), "0, 2, 6, 7");
  EXPECT_EQ(text_of_ranks({}), "");
}

}  // namespace
}  // namespace tpo
