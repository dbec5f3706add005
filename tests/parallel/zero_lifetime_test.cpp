// What may be read when: values after a step and after a BucketSync is gone, gradients after their reduction.
#include <gtest/gtest.h>

#include <latch>

#include "core/error.h"
#include "parallel/comm/threads.h"
#include "tests/parallel/zero_model.h"

namespace tpo {
namespace {

constexpr Sharding kAll[] = {Sharding::kReplicated, Sharding::kOptimizer, Sharding::kGradients, Sharding::kParameters};

class ZeroLifetime : public testing::TestWithParam<Sharding> {
 protected:
  static BucketOptions options() { return {.bucket_bytes = 4096, .sharding = GetParam()}; }
};
INSTANTIATE_TEST_SUITE_P(policies, ZeroLifetime, testing::ValuesIn(kAll),
                         [](const auto& info) { return std::string(name_of(info.param)); });

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

State values_of(const ParamStore& store) {
  State out;
  for (const auto& p : store.params()) out[p->name] = p->value.to_vector<float>();
  return out;
}

// begin_step to finish_grads, one microbatch on each rank.
void grads(LayeredModel& model, BucketSync& sync, int rank) {
  sync.begin_step({.local = {7}, .global = {7}});
  sync.begin_microbatch();
  {
    Tape tape;
    const TapeScope scope(tape);
    const Tensor loss = model.loss({static_cast<uint64_t>(5 + rank), 3}, 0.5f);
    sync.end_forward();
    tape.backward(loss);
  }
  sync.finish_grads(Stream::current());
}

// A step, release, thaw, and a step of another sync.
State train_thaw_train(ProcessGroup& world, const BucketOptions& options) {
  ZeroRank r(world, options);
  grads(r.model, r.sync, world.rank());
  r.sync.step(kZeroAdam);
  r.sync.release();
  const State released = values_of(r.store);
  for (const auto& [name, v] : r.state()) {
    if (!name.starts_with("optim.")) {
      EXPECT_EQ(released.at(name), v) << name;
    }
  }
  EXPECT_FALSE(r.store.find("trunk.table")->grad.defined());
  EXPECT_TRUE(has(message_of<CommError>([&] { r.sync.begin_step({}); }), "[begin_step] after release()"));
  EXPECT_TRUE(has(message_of<CommError>([&] { r.sync.with_full_values([] {}); }), "after release()"));
  EXPECT_TRUE(has(message_of<CommError>([&] { r.sync.release(); }), "after release()"));
  r.store.set_trainable("*.base", true);
  auto again = std::make_unique<BucketSync>(r.store, SyncGroups(world), options);
  grads(r.model, *again, world.rank());
  again->step(kZeroAdam);
  EXPECT_EQ(again->group_steps().at("trunk"), 1) << "what another sync counts begins anew";
  again->release();
  again.reset();
  const State trained = values_of(r.store);
  EXPECT_NE(trained.at("trunk.layers.0.base"), released.at("trunk.layers.0.base"));
  return trained;
}

TEST_P(ZeroLifetime, a_released_sync_leaves_whole_values_and_another_can_train_thawed_parameters) {
  State want, got;
  run_ranks(2, [&](ProcessGroup& world) {
    const State mine = train_thaw_train(world, options());
    const State replicated = train_thaw_train(world, {.bucket_bytes = 4096});
    if (world.rank() == 0) got = mine, want = replicated;
  });
  EXPECT_EQ(got, want) << "sums of two ranks: the same bits under every policy";
}

TEST(zero_lifetime, without_release_sharded_values_are_gone_and_that_is_said) {
  const auto single = make_single();
  ParamStore store(7);
  const LayeredModel model(store, 0);
  const BucketOptions options{.bucket_bytes = 4096, .sharding = Sharding::kParameters};
  std::make_unique<BucketSync>(store, *single, options).reset();
  EXPECT_TRUE(
      has(message_of<CommError>([&] { BucketSync(store, *single, options); }),
          "parameter 'trunk.table' has no value: the ParamSync that sharded it was destroyed without release()"));
}

// Rank 1 steps only when rank 0 has returned from its step: nothing of rank 1's part is there yet.
TEST(zero_lifetime, bytes_read_after_a_step_are_those_that_other_ranks_send) {
  for (const Sharding sharding : {Sharding::kOptimizer, Sharding::kGradients}) {
    for (const bool destroyed : {false, true}) {
      std::latch stepped(1);
      run_ranks(2, [&](ProcessGroup& world) {
        ParamStore store(7);
        LayeredModel model(store, 2);
        const BucketOptions options{.bucket_bytes = 4096, .sharding = sharding};
        auto sync = std::make_unique<BucketSync>(store, SyncGroups(world), options);
        grads(model, *sync, world.rank());
        if (world.rank() == 1) stepped.wait();
        sync->step(kZeroAdam);
        if (world.rank() == 0) stepped.count_down();
        if (destroyed) {
          sync.reset();
          EXPECT_TRUE(has(message_of<CommError>([&] { store.find("trunk.table")->value.raw(); }),
                          "after its ParamSync was destroyed"));
          return;
        }
        for (const auto& [name, mine] : values_of(store)) {
          const auto all = world.all_gather_bytes(std::as_bytes(std::span(mine)), name);
          EXPECT_TRUE(all[0] == all[1]) << name << ": a rank read values of the step before";
        }
      });
    }
  }
}

TEST_P(ZeroLifetime, gradients_are_read_after_finish_grads_where_they_are_the_sums_only) {
  run_ranks(2, [](ProcessGroup& world) {
    ZeroRank r(world, options());
    for (int i = 0; i < 2; ++i) {
      grads(r.model, r.sync, world.rank());
      double squares = 0;
      for (const auto& p : r.store.params()) {
        if (!p->trainable) continue;
        if (GetParam() != Sharding::kReplicated) {
          EXPECT_TRUE(has(message_of<CommError>([&] { p->grad.raw(); }), "this rank keeps a part of it")) << p->name;
        } else {
          for (const float g : p->grad.to_vector<float>()) squares += static_cast<double>(g) * g;
        }
      }
      if (GetParam() == Sharding::kReplicated) {
        EXPECT_NEAR(std::sqrt(squares), r.sync.grad_norm(), 1e-6 * r.sync.grad_norm());
      }
      r.sync.step(kZeroAdam);
    }
  });
}

TEST_P(ZeroLifetime, a_step_inside_of_with_full_values_is_refused) {
  run_ranks(2, [](ProcessGroup& world) {
    ZeroRank r(world, options());
    const auto inside = [&](const std::function<void()>& fn) {
      return message_of<CommError>([&] { r.sync.with_full_values(fn); });
    };
    EXPECT_TRUE(has(inside([&] { r.sync.begin_step({}); }), "[begin_step] inside of with_full_values"));
    EXPECT_TRUE(has(inside([&] { r.sync.release(); }), "[release] inside of with_full_values"));
    grads(r.model, r.sync, world.rank());
    EXPECT_TRUE(has(inside([&] { r.sync.step(kZeroAdam); }), "[step] inside of with_full_values"));
    r.sync.step(kZeroAdam);  // nothing happened
    EXPECT_EQ(r.sync.group_steps().at("trunk"), 1);
  });
}

// Parameters in bf16, one that stays fp32, one frozen; what a checkpoint would write into the state reaches the values.
TEST_P(ZeroLifetime, values_in_bf16_are_their_masters_rounded) {
  const auto loaded = [](int64_t element) { return 0.1f + 0.001f * static_cast<float>(element); };
  const auto rounded = [](float v) { return static_cast<float>(BF16(v)); };
  for (const int n : {1, 3}) {
    run_ranks(n, [&](ProcessGroup& world) {
      ParamStore store(7, DType::kBF16);
      const ParamScope root(store);
      root.param("a", {33, 9}, Init::normal(0, 1));
      root.in_f32().param("wide", {17, 5}, Init::normal(0, 1));
      root.param("b", {50}, Init::constant(0.3f));
      root.param("frozen", {8, 8}, Init::constant(0.3f)).trainable = false;
      const auto check_values = [&] {
        for (const auto& p : store.params())
          for (int64_t i = 0; i < p->value.numel(); ++i) {
            if (p->name == "wide") {
              ASSERT_EQ(p->value.data<float>()[i], loaded(i));
            } else {
              ASSERT_EQ(static_cast<float>(p->value.data<BF16>()[i]), rounded(p->trainable ? loaded(i) : 0.3f));
            }
          }
      };
      {
        BucketSync sync(store, world, options());
        sync.for_each_state([&](const StateEntry& e) {
          EXPECT_EQ(e.value.dtype(), e.param->trainable ? DType::kF32 : DType::kBF16) << e.name;
          for (int64_t i = 0; e.param->trainable && i < e.value.numel(); ++i)
            e.value.data<float>()[i] = e.name.starts_with("optim.") ? 0.0f : loaded(e.begin + i);
        });
        sync.state_loaded();
        sync.with_full_values(check_values);
        for (const Bucket& b : sync.buckets()) {
          EXPECT_EQ(b.has_masters(), b.trainable && b.entries[0].param->name != "wide") << b.what;
          EXPECT_EQ(b.master.numel(), b.own.count) << b.what;
        }
        sync.release();
      }
      check_values();
      BucketSync again(store, world, options());  // knows the values only
      again.for_each_state([&](const StateEntry& e) {
        for (int64_t i = 0; e.name == "a" && i < e.value.numel(); ++i)
          ASSERT_EQ(e.value.data<float>()[i], rounded(loaded(e.begin + i)));
      });
    });
  }
}

}  // namespace
}  // namespace tpo
