// Replicated data parallelism on rank threads against one rank that runs every microbatch.
#include "parallel/sharding/bucket_sync.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "parallel/comm/threads.h"
#include "tests/parallel/toy_model.h"

namespace tpo {
namespace {

// A large eps: m / (sqrt(v) + eps) then does not magnify rounding where a gradient is almost zero.
const AdamWParams kAdam{.lr = 0.01f, .eps = 1e-3f, .weight_decay = 0.1f};
const std::vector<ToyMicrobatch> kAllHeads = {{1, 7}, {2, 7}, {3, 7}, {4, 7}};

// A model, its parameters and their reduction on one rank.
struct Replica {
  explicit Replica(ProcessGroup& data, BucketOptions options = {.bucket_bytes = 4096})
      : model(store), sync(store, data, options), rank(data.rank()), size(data.size()) {}
  void grads(const std::vector<ToyMicrobatch>& mbs) { toy_grads(model, sync, mbs, rank, size); }
  void step(const std::vector<ToyMicrobatch>& mbs) {
    grads(mbs);
    sync.clip(1.0);
    sync.step(kAdam);
  }
  std::map<std::string, std::vector<float>> state() {
    std::map<std::string, std::vector<float>> out;
    sync.for_each_state([&](const StateEntry& e) { out[e.name] = e.value.to_vector<float>(); });
    return out;
  }
  void load(const std::map<std::string, std::vector<float>>& state, const std::map<std::string, int64_t>& steps) {
    sync.for_each_state([&](const StateEntry& e) {
      const auto& v = state.at(e.name);
      std::copy(v.begin(), v.end(), e.value.data<float>());
    });
    sync.set_group_steps(steps);
  }
  ParamStore store{7};
  ToyModel model;
  BucketSync sync;
  int rank, size;
};

// max|a - b| / max|b|
double difference(std::span<const float> a, std::span<const float> b) {
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < b.size(); ++i) {
    worst = std::max(worst, static_cast<double>(std::fabs(a[i] - b[i])));
    largest = std::max(largest, static_cast<double>(std::fabs(b[i])));
  }
  return worst / largest;
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

TEST(replicated, two_three_and_four_ranks_equal_one) {
  const std::vector<std::vector<ToyMicrobatch>> steps = {
      {{1, 7}, {2, 1}, {3, 0}, {4, 2}, {5, 4}, {6, 1}, {7, 3}, {8, 0}},
      {{9, 1}, {10, 1}, {11, 0}},
      {{12, 6}},
      kAllHeads};
  for (const int n : {2, 3, 4}) {
    run_ranks(n, [&](ProcessGroup& world) {
      Replica dp(world), one(*make_single());
      for (const auto& mbs : steps) {
        dp.step(mbs);
        one.step(mbs);
      }
      const auto a = dp.state(), b = one.state();
      // Four steps of lr 0.01: sums of at most 8 x 5 rounded products each, 2^-24 apart, over eps-damped Adam.
      for (const auto& [name, v] : b) EXPECT_LT(difference(a.at(name), v), 2e-5) << name << " on " << n << " ranks";
      EXPECT_EQ(dp.sync.group_steps(), one.sync.group_steps());
      const auto& w = a.at("w1");
      const auto all = world.all_gather_bytes(std::as_bytes(std::span(w)), "w1");
      for (const auto& other : all) EXPECT_TRUE(other == all[0]) << "replicas have different bits";
    });
  }
}

TEST(replicated, frozen_rows_and_frozen_parameters_keep_their_bits) {
  const auto group = make_single();
  Replica r(*group);
  const auto before = r.state();
  for (int i = 0; i < 3; ++i) r.step(kAllHeads);
  const auto after = r.state();
  const auto split = ToyModel::kFrozenFrom * ToyModel::kIn;
  const auto &a = before.at("table"), &b = after.at("table");
  EXPECT_TRUE(std::equal(a.begin() + split, a.end(), b.begin() + split));
  EXPECT_FALSE(std::equal(a.begin(), a.begin() + split, b.begin()));
  EXPECT_EQ(before.at("base"), after.at("base"));
  EXPECT_FALSE(r.store.find("base")->grad.defined());
}

TEST(replicated, reductions_start_while_backward_still_runs) {
  run_ranks(2, [](ProcessGroup& world) {
    Replica r(world, {.bucket_bytes = 4096});
    r.sync.begin_step(toy_use({{1, 7}, {2, 0}}, r.rank, 2));
    EXPECT_EQ(r.sync.stats().bytes, 0);
    toy_backward(r.model, r.sync, {static_cast<uint64_t>(1 + r.rank), r.rank == 0 ? 7u : 0u}, 2);
    int64_t active = 0;
    for (const Bucket& b : r.sync.buckets()) active += b.bytes();
    EXPECT_EQ(r.sync.stats().bytes, active) << "the last contribution launches the last bucket, before finish_grads";
    r.sync.finish_grads(Stream::current());
    const CommStats s = r.sync.stats();
    EXPECT_EQ(s.bytes, active);
    EXPECT_GE(s.in_flight_s, s.transfer_s);
    EXPECT_GE(s.hidden_s(), 0);
  });
}

TEST(replicated, a_used_parameter_without_gradient_is_an_error_that_names_it) {
  const std::string m = message_of<CommError>([] {
    run_ranks(2, [](ProcessGroup& world) {
      Replica r(world);
      r.sync.begin_step(toy_use({{1, 2}, {2, 2}}, r.rank, 2));
      toy_backward(r.model, r.sync, {1, r.rank == 0 ? 2u : 0u}, 2);  // rank 1 forgets head 1
      r.sync.finish_grads(Stream::current());
    });
  });
  EXPECT_NE(m.find("rank 1: parameter 'head1."), std::string::npos) << m;
  EXPECT_NE(m.find("got 0 of 1 expected"), std::string::npos) << m;
}

TEST(replicated, a_gradient_that_the_plan_does_not_know_is_an_error_that_names_it) {
  const auto group = make_single();
  Replica r(*group);
  r.sync.begin_step(toy_use({{1, 2}}, 0, 1));
  const std::string m = message_of<CommError>([&] { toy_backward(r.model, r.sync, {1, 3}, 1); });
  EXPECT_NE(m.find("parameter 'head0."), std::string::npos) << m;
  Replica twice(*group);
  twice.sync.begin_step(toy_use({{1, 0}}, 0, 1));
  toy_backward(twice.model, twice.sync, {1, 0}, 1);
  const std::string again = message_of<CommError>([&] { toy_backward(twice.model, twice.sync, {1, 0}, 1); });
  EXPECT_NE(again.find("more microbatches than the 1 of the plan"), std::string::npos) << again;
}

TEST(replicated, a_use_that_contradicts_itself_is_refused) {
  const auto group = make_single();
  Replica r(*group);
  const auto refusal = [&](const StepUse& use) { return message_of<CommError>([&] { r.sync.begin_step(use); }); };
  EXPECT_NE(refusal({.local = {1, 3}, .global = {3, 1}}).find("group 'head0' is used by microbatch 1"),
            std::string::npos);
  EXPECT_NE(refusal({.local = {}, .global = {1, 1 << 4}}).find("parameter groups '4' but the model has 4"),
            std::string::npos);
  EXPECT_NE(refusal({.local = {1, 1}, .global = {1}}).find("2 microbatches but the plan has 1 rounds"),
            std::string::npos);
  EXPECT_THROW(r.sync.begin_microbatch(), CommError);
  EXPECT_THROW(r.sync.finish_grads(Stream::current()), CommError);
  EXPECT_THROW(r.sync.step(kAdam), CommError);
}

TEST(replicated, a_rank_that_throws_in_backward_releases_the_others) {
  const std::string m = message_of<DataError>([] {
    run_ranks(4, [](ProcessGroup& world) {
      Replica r(world);
      r.step(kAllHeads);
      if (r.rank == 3) throw DataError("sample 12 of real.h5 is broken");
      r.step(kAllHeads);
    });
  });
  EXPECT_EQ(m, "rank 3: sample 12 of real.h5 is broken");
}

TEST(replicated, ranks_with_different_plans_are_told) {
  const std::string m = message_of<CommError>([] {
    run_ranks(2, [](ProcessGroup& world) {
      Replica r(world);
      const unsigned heads = r.rank == 0 ? 1 : 2;  // each rank believes that its own heads are the global ones
      r.sync.begin_step(toy_use({{1, heads}}, 0, 1));
      toy_backward(r.model, r.sync, {1, heads}, 1);
      r.sync.finish_grads(Stream::current());
    });
  });
  EXPECT_NE(m.find("ranks disagree"), std::string::npos) << m;
  EXPECT_NE(m.find("head0."), std::string::npos) << m;
  EXPECT_NE(m.find("head1."), std::string::npos) << m;
}

TEST(replicated, ranks_with_different_models_are_told) {
  const std::string m = message_of<CommError>([] {
    run_ranks(2, [](ProcessGroup& world) {
      ParamStore store(1);
      ToyModel model(store);
      if (world.rank() == 1) store.set_trainable("w1", false);
      BucketSync sync(store, world);
    });
  });
  EXPECT_NE(m.find("built different buckets"), std::string::npos) << m;
}

TEST(replicated, ranks_of_the_tensor_axis_with_different_models_are_told) {
  // Their buckets hold different parameters; one has a parameter more.
  for (const int more : {0, 1}) {
    const std::string m = message_of<CommError>([&] {
      run_ranks(2, [&](ProcessGroup& tensor) {
        const auto alone = make_single();
        ParamStore store(1);
        store.create("a", {4, 4}, Init::constant(1), 0);
        store.create(more == 0 && tensor.rank() == 0 ? "b" : "c", {4, 4}, Init::constant(1), 0);
        if (more == 1 && tensor.rank() == 1) store.create("d", {4, 4}, Init::constant(1), 0);
        BucketSync sync(store, {*alone, *alone, *alone, tensor});
      });
    });
    EXPECT_NE(m.find("of group world built different buckets"), std::string::npos) << m;
  }
}

TEST(replicated, a_nan_of_one_rank_stops_all_before_the_update) {
  run_ranks(2, [](ProcessGroup& world) {
    Replica r(world);
    r.step(kAllHeads);
    const auto before = r.state();
    r.sync.begin_step(toy_use(kAllHeads, r.rank, 2));
    for (const auto& mb : kAllHeads) {
      if (static_cast<int>(mb.id - 1) % 2 != r.rank) continue;
      toy_backward(r.model, r.sync, mb, 4);
      // Poisoned before its bucket goes: head 2 needs one more microbatch.
      if (r.rank == 1 && mb.id == 2) {
        r.store.find("head2.weight")->grad.data<float>()[3] = std::numeric_limits<float>::infinity();
      }
    }
    r.sync.finish_grads(Stream::current());
    const std::string m = message_of<NonFiniteGradient>([&] { r.sync.clip(1.0); });
    EXPECT_NE(m.find("'head2.weight'"), std::string::npos) << m;
    EXPECT_EQ(r.state(), before);
  });
}

TEST(replicated, clipping_scales_the_update_and_not_the_norm) {
  const auto group = make_single();
  Replica clipped(*group), free(*group);
  clipped.grads(kAllHeads);
  free.grads(kAllHeads);
  const double norm = free.sync.grad_norm();
  EXPECT_EQ(clipped.sync.clip(norm / 4), norm);
  clipped.sync.step(kAdam);
  free.sync.step(kAdam);
  const auto a = clipped.state().at("optim.m.w0"), b = free.state().at("optim.m.w0");
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i] / 4, 1e-6 * std::fabs(b[i]));
  free.grads(kAllHeads);
  EXPECT_GT(free.sync.clip(1e9), 0);
}

TEST(replicated, saved_state_continues_with_the_same_bits) {
  run_ranks(2, [](ProcessGroup& world) {
    Replica whole(world), first(world), second(world);
    const std::vector<ToyMicrobatch> only_head1 = {{5, 2}, {6, 0}};
    for (int i = 0; i < 2; ++i) whole.step(kAllHeads), first.step(kAllHeads);
    whole.step(only_head1);
    first.step(only_head1);
    second.load(first.state(), first.sync.group_steps());
    EXPECT_EQ(second.sync.group_steps().at("head1"), 3);
    EXPECT_EQ(second.sync.group_steps().at("head0"), 2);
    whole.step(kAllHeads);
    second.step(kAllHeads);
    EXPECT_EQ(whole.state(), second.state());
  });
  const auto group = make_single();
  Replica r(*group);
  EXPECT_THROW(r.sync.set_group_steps({{"no such head", 1}}), ConfigError);
}

TEST(replicated, meta_predicts_the_bytes_of_a_step) {
  const auto group = make_single();
  const auto peak = [&](std::unique_ptr<Stream> stream) {
    StreamScope scope(*stream);
    Replica r(*group);
    r.step(kAllHeads);
    return std::pair(stream->allocator()->stats().peak_bytes, stream->allocator()->stats().live_bytes);
  };
  EXPECT_EQ(peak(Stream::make_meta()), peak(Stream::make_cpu()));
}

}  // namespace
}  // namespace tpo
