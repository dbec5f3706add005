// Sharded data parallelism on rank threads against one rank that runs every microbatch.
#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/comm/threads.h"
#include "parallel/mesh.h"
#include "tests/parallel/zero_model.h"

namespace tpo {
namespace {

constexpr Sharding kAll[] = {Sharding::kReplicated, Sharding::kOptimizer, Sharding::kGradients, Sharding::kParameters};

// Microbatches and who runs them: unequal numbers, ranks without any, heads on some ranks only.
struct Step {
  std::vector<ToyMicrobatch> mbs;
  std::vector<int> owner;
};
std::vector<Step> steps_for(int ranks) {
  std::vector<Step> steps = {{{{1, 3}, {2, 1}, {3, 0}, {4, 2}, {5, 3}, {6, 1}, {7, 0}}, {}},
                             {{{8, 1}, {9, 1}, {10, 1}}, {}},
                             {{{11, 2}}, {}},
                             {{{12, 0}, {13, 0}}, {}},
                             {{{14, 3}, {15, 3}, {16, 3}, {17, 3}}, {}}};
  for (size_t s = 0; s < steps.size(); ++s) {
    for (size_t j = 0; j < steps[s].mbs.size(); ++j)
      steps[s].owner.push_back(s == 1 ? ranks - 1 : static_cast<int>((j * j + s) % static_cast<size_t>(ranks)));
  }
  return steps;
}

// Five steps of lr 0.01 on sums of at most 7 x 3 rounded products, 2^-24 apart, over eps-damped Adam, as in
// bucket_sync_test; clipping divides by a norm that is as far off.
constexpr double kFiveSteps = 2e-5;

void expect_equal_to_one(const SyncGroups& groups, const BucketOptions& options, Rerun recompute,
                         const std::string& what) {
  ZeroRank dp(groups, options, 2, recompute);
  OneRank one;
  for (const Step& s : steps_for(groups.data->size())) {
    dp.step(s.mbs, s.owner);
    one.step(s.mbs);
  }
  const State a = dp.state(), b = one.rank.state();
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, v] : b) EXPECT_LT(difference(a.at(name), v), kFiveSteps) << name << ", " << what;
  EXPECT_EQ(dp.sync.group_steps(), one.rank.sync.group_steps());
  for (const auto& [name, v] : a) {
    const auto all = groups.data->all_gather_bytes(std::as_bytes(std::span(v)), name);
    for (const auto& other : all) EXPECT_TRUE(other == all[0]) << name << ": copies have different bits, " << what;
  }
}

class ZeroPolicy : public testing::TestWithParam<Sharding> {};
INSTANTIATE_TEST_SUITE_P(policies, ZeroPolicy, testing::ValuesIn(kAll),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(ZeroPolicy, two_three_and_four_ranks_equal_one) {
  for (const int n : {1, 2, 3, 4}) {
    for (const Rerun recompute : {Rerun::kNone, Rerun::kSelective, Rerun::kFull}) {
      for (const bool reshard : {true, false}) {
        for (const int prefetch : {0, 1, 2, 1000}) {
          if (GetParam() != Sharding::kParameters && (!reshard || prefetch != 2)) continue;
          run_ranks(n, [&](ProcessGroup& world) {
            const auto single = make_single();
            expect_equal_to_one({world, world, *single, *single},
                                {.bucket_bytes = 4096,
                                 .sharding = GetParam(),
                                 .reshard_after_forward = reshard,
                                 .prefetch_buckets = prefetch},
                                recompute, cat(n, " ranks, reshard ", reshard, ", prefetch ", prefetch));
          });
        }
      }
    }
  }
}

TEST_P(ZeroPolicy, two_copies_of_two_shards_equal_one) {
  run_ranks(4, [](ProcessGroup& world) {
    Mesh mesh(world, {.data = 4, .shard = 2});
    expect_equal_to_one({mesh.data(), mesh.shard(), mesh.replica(), mesh.tensor()},
                        {.bucket_bytes = 4096, .sharding = GetParam()}, Rerun::kFull, "hybrid");
  });
}

TEST(zero, each_part_of_a_model_has_its_policy) {
  for (const int n : {2, 3}) {
    run_ranks(n, [&](ProcessGroup& world) {
      const auto single = make_single();
      const BucketOptions options{.bucket_bytes = 4096,
                                  .sharding = Sharding::kParameters,
                                  .rules = {{"trunk.layers.1.*", Sharding::kOptimizer},
                                            {"trunk.layers.*.b", Sharding::kParameters, false},
                                            {"trunk.layers.2.*", Sharding::kGradients},
                                            {"heads.*", Sharding::kReplicated}}};
      expect_equal_to_one({world, world, *single, *single}, options, Rerun::kFull, "by part");
    });
  }
}

// Sums in the order of ranks, cut or not; norms of the same parts in the same order. So where the buckets are the same
// and a gradient is one sum, so are the bits: kOptimizer always; kGradients with one round. kParameters has buckets of
// its own, so its norm may differ by rounding: without clipping.
TEST(zero, policies_have_the_same_bits) {
  for (const int n : {2, 3}) {
    run_ranks(n, [&](ProcessGroup& world) {
      const auto single = make_single();
      const auto run = [&](Sharding sharding, double max_norm, bool one_round, int prefetch = 2, bool reshard = true) {
        ZeroRank r({world, world, *single, *single}, {.bucket_bytes = 4096,
                                                      .sharding = sharding,
                                                      .reshard_after_forward = reshard,
                                                      .prefetch_buckets = prefetch});
        for (uint64_t s = 0; s < 3; ++s) {
          std::vector<ToyMicrobatch> mbs;
          std::vector<int> owner;
          for (int j = 0; j < (one_round ? n : 2 * n + 1); ++j)
            mbs.push_back({s * 10 + static_cast<uint64_t>(j), 3u & static_cast<unsigned>(j)}), owner.push_back(j % n);
          r.step(mbs, owner, max_norm);
        }
        return r.state();
      };
      const double clip = 0.5;  // every step's norm is above
      EXPECT_EQ(run(Sharding::kOptimizer, clip, false), run(Sharding::kReplicated, clip, false));
      EXPECT_EQ(run(Sharding::kGradients, clip, true), run(Sharding::kReplicated, clip, true));
      EXPECT_EQ(run(Sharding::kParameters, 0, true), run(Sharding::kReplicated, 0, true));
      const State first = run(Sharding::kParameters, clip, false);
      EXPECT_EQ(run(Sharding::kParameters, clip, false, 0, true), first);
      EXPECT_EQ(run(Sharding::kParameters, clip, false, 1000, false), first);
    });
  }
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

TEST_P(ZeroPolicy, an_infinity_on_one_rank_stops_all_before_the_update_and_names_the_parameter) {
  run_ranks(3, [](ProcessGroup& world) {
    const auto single = make_single();
    ZeroRank r({world, world, *single, *single}, {.bucket_bytes = 4096, .sharding = GetParam()});
    r.step({{1, 3}, {2, 3}, {3, 3}}, {0, 1, 2});
    const State before = r.state();
    r.grads({{4, 3}, {5, 3}, {6, 3}}, {0, 1, 2});
    for (const Bucket& b : r.sync.buckets()) {
      for (const Bucket::Entry& e : b.entries) {
        const int64_t first = std::max(e.begin, b.own.begin);
        if ((world.rank() == 1 || b.sharding == Sharding::kReplicated) && e.param->name == "trunk.layers.2.w" &&
            first < std::min(e.end(), b.own.end()))
          b.master_grad.data<float>()[first - b.own.begin] = std::numeric_limits<float>::infinity();
      }
    }
    const std::string m = message_of<NonFiniteGradient>([&] { r.sync.clip(1.0); });
    EXPECT_TRUE(has(m, "'trunk.layers.2.w'")) << m;
    EXPECT_EQ(r.state(), before);
    r.sync.with_full_values([] {});
    r.step({{7, 3}, {8, 1}, {9, 0}}, {0, 1, 2});  // the step is skipped, the run goes on
    const State after = r.state();
    for (const auto& [name, v] : after)
      for (const float x : v) EXPECT_TRUE(std::isfinite(x)) << name;
    EXPECT_NE(after, before);
  });
}

// Whatever mixture: nobody waits for ever, and the result is that of one rank. Frozen parts mean microbatches without a
// gradient, ranks that only help others to gather, and others that only help to reduce. trunk.*a*e (the table and the
// bases) leaves what trains to begin in the middle of a block.
TEST(zero, random_mixtures_equal_one_rank) {
  const char* parts[] = {"trunk.table", "trunk.layers.*.base", "trunk.layers.2.*", "heads.0.*", "heads.*"};
  const char* frozen[] = {"*.base", "trunk.*", "trunk.layers.*", "trunk.layers.3.*", "heads.1.*", "trunk.*a*e"};
  const int prefetch[] = {0, 1, 2, 1000};
  for (uint64_t seed = 0; seed < 240; ++seed) {
    uint64_t draws = 0;
    const RngKey key = RngKey(seed).with("mixture");
    const auto below = [&](size_t n) { return static_cast<size_t>(uniform_below(key, draws++, n)); };
    BucketOptions options{.bucket_bytes = 4096, .sharding = kAll[below(4)], .reshard_after_forward = below(3) > 0};
    for (const char* part : parts)
      if (below(2) == 0) options.rules.push_back({part, kAll[below(4)], below(2) == 0});
    options.prefetch_buckets = prefetch[below(4)];
    const std::string freeze = frozen[below(6)];
    const auto recompute = static_cast<Rerun>(below(3));
    const int n = 2 + static_cast<int>(below(3));
    const bool copies = n == 4 && below(2) == 0;
    std::vector<Step> steps(3);
    for (Step& s : steps) {
      for (size_t j = 1 + below(6); j-- > 0;) {
        s.mbs.push_back({seed * 100 + draws, static_cast<unsigned>(below(8))});
        s.owner.push_back(static_cast<int>(below(static_cast<size_t>(n))));
      }
    }
    SCOPED_TRACE(cat("seed ", seed));
    run_ranks(n, [&](ProcessGroup& world) {
      const auto single = make_single();
      const Mesh mesh(world, {.data = n, .shard = copies ? 2 : n});
      ZeroRank dp(mesh, options, 3, recompute, freeze);
      ZeroRank one(*single, {.bucket_bytes = 4096}, 3, recompute, freeze);
      for (const Step& s : steps) {
        dp.step(s.mbs, s.owner);
        one.step(s.mbs, std::vector<int>(s.mbs.size(), 0));
      }
      const State a = dp.state(), b = one.state();
      for (const auto& [name, v] : b) EXPECT_LT(difference(a.at(name), v), kFiveSteps) << name << ", seed " << seed;
    });
  }
}

TEST_P(ZeroPolicy, a_rank_that_throws_in_forward_or_backward_releases_the_others) {
  for (const bool in_backward : {false, true}) {
    const std::string m = message_of<DataError>([&] {
      run_ranks(3, [&](ProcessGroup& world) {
        ZeroRank r(world, {.bucket_bytes = 4096, .sharding = GetParam()});
        const std::vector<ToyMicrobatch> mbs{{1, 3}, {2, 3}, {3, 3}};
        const std::vector<int> owner{0, 1, 2};
        r.step(mbs, owner);
        r.sync.begin_step(ZeroRank::use_of(mbs, owner, world.rank()));
        if (world.rank() != 1) return r.backward(mbs[0], 3), r.sync.finish_grads(Stream::current());
        r.sync.begin_microbatch();
        Tape tape;
        const TapeScope scope(tape);
        const Tensor loss = r.model.loss(mbs[1], 1);
        if (in_backward) r.sync.end_forward();
        throw DataError("sample 12 of real.h5 is broken");
      });
    });
    EXPECT_EQ(m, "rank 1: sample 12 of real.h5 is broken");
  }
}

// Handles of freed memory may outlive what would bring it back.
TEST(zero, a_tape_that_outlives_its_sync_is_told) {
  const auto single = make_single();
  ParamStore store(7);
  LayeredModel model(store, 0);
  auto sync = std::make_unique<BucketSync>(store, *single,
                                           BucketOptions{.bucket_bytes = 4096, .sharding = Sharding::kParameters});
  sync->begin_step({.local = {1}, .global = {1}});
  sync->begin_microbatch();
  Tape tape;
  const TapeScope scope(tape);
  const Tensor loss = model.loss({1, 0}, 1);
  sync->end_forward();
  const Tensor grad = store.find("trunk.layers.0.w")->grad;
  sync.reset();
  EXPECT_TRUE(has(message_of<CommError>([&] { tape.backward(loss); }), "after its ParamSync was destroyed"));
  EXPECT_TRUE(has(message_of<CommError>([&] { grad.raw(); }), "after its ParamSync was destroyed"));
}

TEST(zero, norms_count_each_element_of_the_tensor_axis_once) {
  run_ranks(2, [](ProcessGroup& tensor) {
    const auto single = make_single();
    const int64_t me = tensor.rank();
    ParamStore store(1);
    Param& whole = store.create("whole", {3}, Init::constant(1), 0);
    Param& cut = store.create("cut", {4, 2}, {2, 2}, {{Rect{2 * me, 2, 0, 2}}, true}, Init::constant(1), 0);
    Param& shared = store.create("shared", {2}, {2}, {{Rect{0, 2, 0, 1}}, me == 1}, Init::constant(1), 0);
    BucketSync sync(store, {*single, *single, *single, tensor}, {.sharding = Sharding::kParameters});
    sync.begin_step({.local = {1}, .global = {1}});
    sync.begin_microbatch();
    Tape tape;
    const TapeScope scope(tape);
    Tensor loss = sum_all(whole.use());
    for (Param* p : {&cut, &shared}) loss = add(loss, sum_all(p->use()));
    sync.end_forward();
    tape.backward(loss);
    sync.finish_grads(Stream::current());
    EXPECT_DOUBLE_EQ(sync.grad_norm(), std::sqrt(3.0 + 8.0 + 2.0));  // every gradient is 1
  });
}

TEST_P(ZeroPolicy, state_is_given_by_rectangles_and_loads_through) {
  run_ranks(2, [](ProcessGroup& world) {
    const auto single = make_single();
    ParamStore store(1);
    // Two column blocks of a (6, 10) matrix, 18 + 12 elements: neither ends where a part does.
    Param& p =
        store.create("fused", {6, 10}, {30}, {{Rect{0, 6, 1, 3}, Rect{0, 6, 5, 2}}, true}, Init::normal(0, 1), 0);
    store.create("tiny", {1}, Init::constant(2), 0);
    const auto initial = p.value.to_vector<float>();
    BucketSync sync(store, {world, world, *single, *single}, {.sharding = GetParam()});
    std::map<std::string, int64_t> elements;
    sync.for_each_state([&](const StateEntry& e) {
      const bool fused = e.param == &p;
      elements[e.name] += e.value.numel();
      const int64_t offset = fused && e.rect.cols == 2 ? 18 : 0;
      EXPECT_TRUE(!fused || e.begin + e.value.numel() <= e.rect.numel());
      for (int64_t i = 0; i < e.value.numel(); ++i) {
        float& v = e.value.data<float>()[i];
        EXPECT_TRUE(e.name != "fused" || v == initial[static_cast<size_t>(offset + e.begin + i)]);
        v = static_cast<float>(offset + e.begin + i);
      }
    });
    const auto total = [&](const std::string& name) {
      return world.all_reduce_value(elements.at(name), ReduceOp::kSum);
    };
    EXPECT_EQ(total("fused"), GetParam() == Sharding::kParameters ? 30 : 60);
    EXPECT_EQ(total("optim.m.fused"), GetParam() == Sharding::kReplicated ? 60 : 30);
    EXPECT_EQ(total("optim.v.tiny"), GetParam() == Sharding::kReplicated ? 2 : 1);
    sync.with_full_values([&] {
      for (int64_t i = 0; i < 30; ++i) EXPECT_EQ(p.value.data<float>()[i], static_cast<float>(i));
    });
  });
}

TEST(zero, values_that_are_not_there_are_errors_with_a_remedy) {
  const auto single = make_single();
  ZeroRank r({*single, *single, *single, *single}, {.bucket_bytes = 4096, .sharding = Sharding::kParameters});
  Param& first = *r.store.find("trunk.layers.0.w");
  EXPECT_TRUE(has(message_of<CommError>([&] { first.use(); }),
                  "'trunk.layers.0.w' is sharded and used outside of a microbatch"));
  EXPECT_TRUE(has(message_of<CommError>([&] { first.value.raw(); }), "with_full_values"));
  EXPECT_TRUE(has(message_of<CommError>([&] { first.grad.raw(); }), "this rank keeps a part"));
  float kept = 0;
  r.sync.with_full_values([&] { kept = first.use().data<float>()[5]; });
  EXPECT_EQ(kept, r.state().at("trunk.layers.0.w")[5]);
  EXPECT_TRUE(first.value.storage().released());

  r.sync.begin_step({.local = {1}, .global = {1}});
  r.sync.begin_microbatch();
  Tape tape;
  const TapeScope scope(tape);
  const Tensor loss = r.model.loss({1, 0}, 1);
  EXPECT_TRUE(has(message_of<CommError>([&] { first.use(); }), "shard it with reshard_after_forward: false"));
  EXPECT_TRUE(has(message_of<CommError>([&] { first.value.raw(); }), "no gather of them is due"));
  EXPECT_TRUE(has(message_of<CommError>([&] { r.store.find("heads.1.w")->use(); }), "the plan has no rank use it"));
  r.sync.end_forward();
  tape.backward(loss);
  r.sync.finish_grads(Stream::current());
}

TEST(zero, a_model_that_uses_parameters_in_another_order_is_told_instead_of_hanging) {
  std::vector<std::string> wrong{"trunk.table"};
  for (const int layer : {2, 0, 1, 3}) {
    for (const char* name : {"base", "down", "up", "w", "b"}) wrong.push_back(cat("trunk.layers.", layer, ".", name));
  }
  const std::string m = message_of<CommError>([&] {
    run_ranks(2, [&](ProcessGroup& world) {
      const auto single = make_single();
      ZeroRank r(
          {world, world, *single, *single},
          {.bucket_bytes = 4096, .forward_order = wrong, .sharding = Sharding::kParameters, .prefetch_buckets = 0});
      r.step({{1, 0}, {2, 0}}, {0, 1});
    });
  });
  EXPECT_TRUE(has(m, "backward reads bucket") && has(m, "BucketOptions::forward_order")) << m;
}

// A frozen part that is used without a tape is not needed in backward: no marker, no value.
TEST(zero, what_runs_without_a_tape_is_freed_in_forward) {
  const auto single = make_single();
  ParamStore store(1);
  std::vector<Param*> p;
  for (int i = 0; i < 3; ++i) p.push_back(&store.create(cat("layers.", i, ".w"), {4, 4}, Init::normal(0, 1), 0));
  p[0]->trainable = p[1]->trainable = false;
  BucketSync sync(store, *single, {.sharding = Sharding::kParameters, .prefetch_buckets = 0});
  sync.begin_step({.local = {1}, .global = {1}});
  sync.begin_microbatch();
  Tape tape;
  const TapeScope scope(tape);
  Tensor x = Tensor::from(std::vector<float>(8, 1.0f), {2, 4});
  {
    const NoGradScope no_grad;
    for (int i = 0; i < 2; ++i) x = linear(x, p[static_cast<size_t>(i)]->use());
  }
  const Tensor y = sum_all(linear(x, p[2]->use()));
  EXPECT_TRUE(p[0]->value.storage().released()) << "two buckets behind";
  sync.end_forward();
  EXPECT_TRUE(p[1]->value.storage().released()) << "no tape holds it";
  EXPECT_FALSE(p[2]->value.storage().released());
  tape.backward(y);
  EXPECT_TRUE(p[2]->value.storage().released());
  sync.finish_grads(Stream::current());
}

TEST(zero, rules_are_checked) {
  ParamStore store(1);
  store.create("a", {4}, Init::constant(1), 0);
  EXPECT_THROW(plan_buckets(store, {.rules = {{"b*", Sharding::kParameters}}}), ConfigError);
  EXPECT_THROW(plan_buckets(store, {.prefetch_buckets = -1}), ConfigError);
  const ParamStore empty(1);
  EXPECT_THROW(plan_buckets(empty, {.rules = {{"b*", Sharding::kParameters}}}), ConfigError);
}

}  // namespace
}  // namespace tpo
