// Which heads each rank's microbatches use decides nothing about who talks when: every combination gives the gradients
// of one process, leaves untouched groups alone and moves the predicted bytes.
#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/comm/threads.h"
#include "parallel/mesh.h"
#include "tests/parallel/zero_model.h"

namespace tpo {
namespace {

constexpr Sharding kAll[] = {Sharding::kReplicated, Sharding::kOptimizer, Sharding::kGradients, Sharding::kParameters};

struct Wire {
  int64_t reduced = 0, gathered = 0;
};

// What this rank hands to the transport, by bucket, counted there.
thread_local std::map<std::string, Wire>* t_wire = nullptr;
bool count_request(CommRequest& r) {
  if (t_wire == nullptr || r.what.find("bucket ") == std::string::npos) return false;
  Wire& w = (*t_wire)[r.what];
  if (r.op == CommOp::kAllReduce) w.reduced += r.bytes();
  if (r.op == CommOp::kReduceScatter) w.reduced += r.bytes() * r.size;
  if (r.op == CommOp::kAllGather) w.gathered += r.bytes() * r.size;
  return false;
}

class ZeroHeads : public testing::TestWithParam<Sharding> {
 protected:
  void SetUp() override { set_comm_drill(count_request); }
  void TearDown() override { set_comm_drill(nullptr); }
};
INSTANTIATE_TEST_SUITE_P(policies, ZeroHeads, testing::ValuesIn(kAll),
                         [](const auto& info) { return std::string(name_of(info.param)); });

// Bytes that the whole buckets of a step make, by bucket: a reduction per step or per round that touches the group, and
// the sum over copies of this rank's part; gathers after the update, or once in forward and once in backward of such a
// round, where the one that forward uses last has none. (The first parameter trains, so that backward needs every
// bucket.)
std::vector<Wire> predict(const std::vector<Bucket>& buckets, const StepUse& use, bool copies) {
  std::vector<Wire> wire(buckets.size());
  const auto at = [](uint64_t mask, int group) { return ((mask >> group) & 1) != 0; };
  for (const uint64_t round : use.global) {
    const Bucket* last = nullptr;
    for (const Bucket& b : buckets)
      if (at(round, b.group) && b.reshard && (last == nullptr || b.last_use > last->last_use)) last = &b;
    for (size_t i = 0; i < buckets.size(); ++i) {
      const Bucket& b = buckets[i];
      if (!at(round, b.group)) continue;
      if (b.sharding >= Sharding::kGradients && b.trainable) wire[i].reduced += b.numel * 4;
      if (b.sharding != Sharding::kParameters) continue;
      wire[i].gathered += b.numel * 4 * (b.reshard && &b != last ? 2 : 1);
    }
  }
  for (size_t i = 0; i < buckets.size(); ++i) {
    const Bucket& b = buckets[i];
    if (!at(use.global_groups(), b.group) || !b.trainable) continue;
    if (b.sharding < Sharding::kGradients) wire[i].reduced = b.numel * 4;
    if (copies && b.sharding != Sharding::kReplicated) wire[i].reduced += b.own.count * 4;
    if (b.sharding == Sharding::kOptimizer || b.sharding == Sharding::kGradients) wire[i].gathered = b.numel * 4;
  }
  return wire;
}

struct Case {
  std::vector<ToyMicrobatch> mbs;
  std::vector<int> owner;
  unsigned heads() const {
    unsigned all = 0;
    for (const auto& mb : mbs) all |= mb.heads;
    return all;
  }
};

// One step of both from the same state. The state itself is compared, which the gradients decide: m is (1 - beta1) g
// plus what was there.
void expect_exact(ZeroRank& dp, OneRank& one, const Case& c, const std::string& what) {
  const State before = dp.state();
  const auto steps_before = dp.sync.group_steps();
  const auto memory = [] { return Stream::current().allocator()->memory().live; };
  const BytesByKind held = memory();
  std::map<std::string, Wire> seen;
  t_wire = &seen;
  dp.step(c.mbs, c.owner);
  t_wire = nullptr;
  EXPECT_EQ(memory(), held) << "whole buffers and zeros are given back, " << what;
  one.step(c.mbs);
  const bool copies = dp.shard.size() < dp.data.size();
  const auto wire = predict(dp.sync.buckets(), ZeroRank::use_of(c.mbs, c.owner, dp.data.rank()), copies);
  const CommStats stats = dp.sync.stats();
  for (size_t i = 0; i < wire.size(); ++i) {
    const BucketStats& told = stats.buckets[i];
    EXPECT_EQ(seen[told.what].reduced, wire[i].reduced) << told.what << ", " << what;
    EXPECT_EQ(seen[told.what].gathered, wire[i].gathered) << told.what << ", " << what;
    EXPECT_EQ(told.bytes, wire[i].reduced) << told.what << ", " << what;
    EXPECT_EQ(told.gather_bytes, wire[i].gathered) << told.what << ", " << what;
  }
  const State after = dp.state(), expected = one.rank.state();
  const auto steps = dp.sync.group_steps();
  for (const auto& p : dp.store.params()) {
    const bool changes = p->trainable && (p->group == 0 || ((c.heads() >> (p->group - 1)) & 1));
    for (const std::string& name : {p->name, "optim.m." + p->name, "optim.v." + p->name}) {
      if (!p->trainable && name != p->name) continue;
      EXPECT_EQ(after.at(name) != before.at(name), changes) << name << ", " << what;
      // Both began with the same bits (below): one step of rounding, a few times 2^-24 of the largest element.
      EXPECT_LT(difference(after.at(name), expected.at(name)), 4e-6) << name << ", " << what;
    }
    const std::string& group = dp.store.group_names()[static_cast<size_t>(p->group)];
    const bool counted = p->group == 0 || ((c.heads() >> (p->group - 1)) & 1);
    EXPECT_EQ(steps.at(group) - steps_before.at(group), counted ? 1 : 0) << what;
  }
  // The same bits again for the next case.
  one.rank.sync.for_each_state([&](const StateEntry& e) {
    const auto& v = after.at(e.name);
    std::copy(v.begin(), v.end(), e.value.data<float>());
  });
}

TEST_P(ZeroHeads, every_pair_of_subsets_on_two_ranks_is_exact) {
  run_ranks(2, [](ProcessGroup& world) {
    const auto single = make_single();
    const BucketOptions options{.bucket_bytes = 4096, .sharding = GetParam()};
    ZeroRank dp({world, world, *single, *single}, options, 3);
    OneRank one(3);
    const Case first{{{1, 7}, {2, 7}}, {0, 1}};
    dp.step(first.mbs, first.owner);
    const State start = dp.state();
    one.step(first.mbs);
    one.rank.sync.for_each_state([&](const StateEntry& e) {
      const auto& v = start.at(e.name);
      std::copy(v.begin(), v.end(), e.value.data<float>());
    });
    for (unsigned pair = 0; pair < 64; ++pair)
      expect_exact(dp, one, {{{100 + pair, pair & 7}, {200 + pair, pair >> 3}}, {0, 1}}, cat("subsets ", pair));
  });
}

// Random microbatches and owners, the same on every rank.
void expect_cases(ZeroRank& dp, uint64_t cases) {
  OneRank one(4);
  for (uint64_t i = 0; i < cases; ++i) {
    const RngKey key = RngKey(static_cast<uint64_t>(dp.sync.buckets()[0].sharding)).with(i);
    Case c;
    const uint64_t n = 1 + uniform_below(key, 0, 6);
    for (uint64_t j = 0; j < n; ++j) {
      c.mbs.push_back({i * 8 + j, static_cast<unsigned>(uniform_below(key, 2 * j + 1, 16))});
      c.owner.push_back(static_cast<int>(uniform_below(key, 2 * j + 2, 4)));
    }
    expect_exact(dp, one, c, cat("case ", i));
    if (testing::Test::HasFailure()) return;
  }
}

TEST_P(ZeroHeads, two_thousand_cases_of_four_heads_on_four_ranks_are_exact) {
  run_ranks(4, [](ProcessGroup& world) {
    const auto single = make_single();
    const BucketOptions options{.bucket_bytes = 4096, .sharding = GetParam()};
    ZeroRank dp({world, world, *single, *single}, options, 4);
    expect_cases(dp, 500);  // of four policies
  });
}

TEST_P(ZeroHeads, cases_of_two_copies_of_two_shards_are_exact) {
  run_ranks(4, [](ProcessGroup& world) {
    const Mesh mesh(world, {.data = 4, .shard = 2});
    ZeroRank dp(mesh, {.bucket_bytes = 4096, .sharding = GetParam()}, 4);
    expect_cases(dp, 50);
  });
}

// Each is issued as soon as its copy's own sum is there: with rounds at points of the program, when the reductions of
// later buckets make it wait for that.
TEST(zero_heads, sums_over_copies_start_while_backward_still_runs) {
  set_comm_drill(count_request);
  run_ranks(4, [](ProcessGroup& world) {
    const Mesh mesh(world, {.data = 4, .shard = 2});
    for (const Sharding sharding : {Sharding::kGradients, Sharding::kParameters}) {
      ZeroRank r(mesh, {.bucket_bytes = 4096, .sharding = sharding}, 0);
      r.sync.begin_step({.local = {1}, .global = {1}});
      std::map<std::string, Wire> seen;
      t_wire = &seen;
      r.backward({static_cast<uint64_t>(world.rank()), 0}, 4);
      t_wire = nullptr;
      int trained = 0, summed = 0;
      for (const Bucket& b : r.sync.buckets())
        trained += b.trainable, summed += b.trainable && seen[b.what].reduced == b.bytes() + b.own_bytes();
      EXPECT_EQ(summed, trained - 2) << "all but the two in flight";
      r.sync.finish_grads(Stream::current());
    }
  });
  set_comm_drill(nullptr);
}

// Used five times on one rank, twice on another, never on the third, and beside it a head that comes and goes.
TEST_P(ZeroHeads, a_head_used_more_often_on_one_rank_than_on_another) {
  run_ranks(3, [](ProcessGroup& world) {
    const auto single = make_single();
    for (const int prefetch : {0, 2, 1000}) {
      ZeroRank dp({world, world, *single, *single},
                  {.bucket_bytes = 4096, .sharding = GetParam(), .prefetch_buckets = prefetch}, 3);
      OneRank one(3);
      Case c;
      for (uint64_t j = 0; j < 5; ++j) c.mbs.push_back({j, j % 2 == 0 ? 1u : 5u}), c.owner.push_back(0);
      for (uint64_t j = 5; j < 8; ++j) c.mbs.push_back({j, j == 6 ? 0u : 1u}), c.owner.push_back(1);
      c.mbs.push_back({9, 0}), c.owner.push_back(2);
      expect_exact(dp, one, c, cat("prefetch ", prefetch));
    }
  });
}

template <class E>
std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "nothing was thrown";
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// A head in another microbatch than planned, or in none: with rounds its reduction has gone, or goes, without it.
TEST_P(ZeroHeads, what_the_plan_says_otherwise_is_an_error_that_names_parameter_and_microbatch) {
  const auto run = [](StepUse use, std::vector<unsigned> heads) {
    return message_of<CommError>([&] {
      run_ranks(2, [&](ProcessGroup& world) {
        const auto single = make_single();
        ZeroRank r({world, world, *single, *single}, {.bucket_bytes = 4096, .sharding = GetParam()}, 1);
        r.sync.begin_step(use);
        for (uint64_t j = 0; j < heads.size(); ++j) r.backward({j + 1, heads[j]}, heads.size());
        r.sync.finish_grads(Stream::current());
      });
    });
  };
  const auto too_much = [](const char* contribution) {  // values that nobody gathered are noticed before
    return GetParam() == Sharding::kParameters ? "by a microbatch that the plan says does not use it" : contribution;
  };
  const std::string early = run({.local = {1, 3}, .global = {3, 3}}, {1, 0});
  EXPECT_TRUE(has(early, "parameter 'heads.0.") && has(early, too_much("contribution 1 in microbatch 1 of this rank")))
      << early;
  const std::string often = run({.local = {3, 1}, .global = {3, 3}}, {1, 1});
  EXPECT_TRUE(has(often, "parameter 'heads.0.") && has(often, too_much("contribution 2 in microbatch 2 of this rank")))
      << often;
  const std::string never = run({.local = {3, 1}, .global = {3, 3}}, {0, 0});
  // The values of the layers before would be gathered after that head's gradients are reduced.
  const char* missing = GetParam() == Sharding::kParameters ? "does not use those" : "got 0 of 1 expected";
  EXPECT_TRUE(has(never, "heads.0.") && has(never, missing)) << never;
  const std::string fewer = run({.local = {1, 1}, .global = {1, 1}}, {0});
  EXPECT_TRUE(has(fewer, "this rank ran 1 of the 2 microbatches")) << fewer;
  // With rounds this is noticed where the round ends. Without, every sum is what it should be.
  const std::string late = run({.local = {3, 1}, .global = {3, 3}}, {0, 1});
  EXPECT_TRUE(has(late, GetParam() < Sharding::kGradients ? "nothing was thrown" : missing)) << late;
}

// A head is gathered ahead on every rank, and then nobody's forward comes to it: nobody waits for ever, and what was
// fetched is dropped. (It is frozen: a trained one must get its gradient.)
TEST(zero_heads, a_gather_ahead_for_a_head_that_is_then_skipped_is_dropped) {
  run_ranks(2, [](ProcessGroup& world) {
    const auto single = make_single();
    ZeroRank dp({world, world, *single, *single},
                {.bucket_bytes = 4096, .sharding = Sharding::kParameters, .prefetch_buckets = 1000}, 3, Rerun::kNone,
                "heads.2.*");
    const auto weights = [] {
      return Stream::current().allocator()->memory().live[static_cast<size_t>(MemoryKind::kWeights)];
    };
    const int64_t before = weights();
    dp.sync.begin_step({.local = {world.rank() == 0 ? 9u : 1u}, .global = {9}});
    dp.backward({3, 0}, 1);
    dp.sync.finish_grads(Stream::current());
    EXPECT_EQ(weights(), before);
    for (size_t i = 0; i < dp.sync.buckets().size(); ++i) {
      const Bucket& b = dp.sync.buckets()[i];
      EXPECT_EQ(dp.sync.stats().buckets[i].gathers, b.group == 0 ? 2 : b.group == 3 ? 1 : 0) << b.what;
    }
    dp.sync.clip(1);
    dp.sync.step(kZeroAdam);
    dp.step({{1, 7}, {2, 3}}, {0, 1});  // and the next step is a step
  });
}

}  // namespace
}  // namespace tpo
