// Training with weights and activations in bf16: run.precision = bf16.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>
#include <mutex>
#include <numeric>

#include "launcher/commands/checkpoint_model.h"
#include "launcher/trainer.h"
#include "parallel/comm/threads.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

using Sets = std::vector<std::string>;

const Sets kLora = {"train.freeze.0=*", "train.train.0=*.lora_?", "train.train.1=heads.*"};

Sets with(Sets a, const Sets& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::vector<float> floats(const Tensor& t) {
  if (t.dtype() == DType::kF32) return t.to_vector<float>();
  std::vector<float> out;
  for (const BF16 v : t.to_vector<BF16>()) out.push_back(static_cast<float>(v));
  return out;
}

float rounded(float v) { return static_cast<float>(BF16(v)); }

// What a checkpoint would hold, whole, without a tensor axis.
using State = std::map<std::string, std::vector<float>>;

struct Trained {
  std::vector<double> losses, norms;
  uint64_t hash = 0;
  int64_t gather_bytes = 0;
  State state;
  std::string checkpoint;
};

// Trains to step `end`, from a checkpoint if one is named, and checks that values are their masters rounded. draw > 0:
// first weights move at random by at most 2^-8 of each. whole: no tensor axis, the state is put together.
Trained train(int ranks, const Sets& sets, int end, const std::string& begin = "", bool save = false, int draw = 0,
              bool whole = true) {
  Trained out;
  std::mutex mutex;
  const config::RunConfig config = TinyRun::get().config(sets);
  const TrainingData data = make_training_data(config);
  run_ranks(ranks, [&](ProcessGroup& world) {
    Trainer t(config, data, world);
    if (!begin.empty()) t.resume(begin);
    if (draw > 0) {
      t.sync().for_each_state([&](const StateEntry& e) {
        const RngKey key = RngKey(static_cast<uint64_t>(draw)).with(e.name);
        for (int64_t i = 0; i < e.value.numel() && !e.name.starts_with("optim."); ++i)
          e.value.data<float>()[i] *= 1 + 0x1p-8f * (2 * uniform01(philox(key, static_cast<uint64_t>(i))[0]) - 1);
      });
      t.sync().state_loaded();
    }
    while (t.steps_done() < end) {
      const StepStats s = t.step();
      if (world.rank() == 0) out.losses.push_back(s.lm + s.region), out.norms.push_back(s.grad_norm);
    }
    const std::string folder = save ? t.save() : "";
    const uint64_t hash = t.parameter_hash();
    const int64_t bytes = t.sync().stats().gather_bytes;
    if (whole)
      t.sync().with_full_values([&] {
        t.sync().for_each_state([&](const StateEntry& e) {
          const std::vector<float> part = floats(e.value);
          const std::vector<float> value = e.name.starts_with("optim.") ? std::vector<float>() : floats(e.param->value);
          for (size_t i = 0; !value.empty() && i < part.size(); ++i)
            ASSERT_EQ(value[static_cast<size_t>(e.begin) + i],
                      e.param->value.dtype() == DType::kBF16 ? rounded(part[i]) : part[i])
                << e.name;
          const std::scoped_lock lock(mutex);
          auto& full = out.state.try_emplace(e.name, static_cast<size_t>(e.param->full.numel())).first->second;
          std::copy(part.begin(), part.end(), full.begin() + e.begin);
        });
      });
    if (world.rank() == 0) out.checkpoint = folder, out.hash = hash, out.gather_bytes = bytes;
  });
  return out;
}

// Root mean square of relative differences.
double apart(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < b.size(); ++i) sum += std::pow(a[i] / b[i] - 1, 2);
  return std::sqrt(sum / static_cast<double>(b.size()));
}

// The band is the model's own condition: how far curves in fp32 part whose first weights moved by one rounding to bf16,
// at most 2^-8 of each, times the 1.5 sqrt(8) of tests/model/bf16.h, for the roundings of activations and gradients.
TEST(precision, bf16_learns_as_fp32_does) {
  const Sets sets = {"train.steps=60", "optimizer.lr=3e-3", "optimizer.warmup_ratio=0.05"};
  const Trained wide = train(1, sets, 60), narrow = train(1, with(sets, {"run.precision=bf16"}), 60);
  double squares = 0;
  constexpr int kDraws = 4;
  for (int draw = 1; draw <= kDraws; ++draw)
    squares += std::pow(apart(train(1, sets, 60, "", false, draw).losses, wide.losses), 2) / kDraws;
  const double band = 1.5 * std::sqrt(8.0) * std::sqrt(squares), d = apart(narrow.losses, wide.losses);
  EXPECT_LE(d, band);
  EXPECT_GT(d, 0);
  const auto sum = [](const std::vector<double>& v, size_t begin) {
    return std::accumulate(v.begin() + static_cast<std::ptrdiff_t>(begin),
                           v.begin() + static_cast<std::ptrdiff_t>(begin) + 10, 0.0);
  };
  for (const Trained* r : {&wide, &narrow}) EXPECT_LT(sum(r->losses, 50), 0.7 * sum(r->losses, 0));
  std::cout << "losses of 60 steps in bf16 are " << d << " of fp32's apart; band " << band << std::endl;
}

// The same weights in bf16 give the same losses and gradients of a microbatch; sums over microbatches in another order
// differ by some 2^-24, and with them masters. Where a master is that near to the middle of two neighbours in bf16,
// one weight in some thousand, its value is the other: 2^-8 of the weight, of the loss some 2^-8 / sqrt(1000) = 1e-4.
// A tensor axis adds shares that were rounded: every activation and gradient may be a rounding away, and steps amplify
// it. What is allowed is the model's own condition, as above: how far steps in fp32 part when first weights move by up
// to 2^-8 of each, times 1.5 sqrt(8).
TEST(precision, layouts_train_as_one_rank_does) {
  struct Layout {
    int ranks;
    Sets sets;
    bool cut = false;
  };
  const std::vector<Layout> layouts = {{1, {"layout.zero=3"}},
                                       {2, {}},
                                       {2, {"layout.zero=2", "model.recompute=full"}},
                                       {2, {"layout.zero=3", "model.recompute=selective"}},
                                       {4, {"layout.zero=3", "layout.shard_ranks=2"}},
                                       {4, {"layout.zero=3", "layout.tensor=2"}, true},
                                       {2, {"layout.tensor=2", "layout.sequence_parallel=true"}, true}};
  constexpr int kSteps = 8, kDraws = 3;
  const auto furthest = [](const std::vector<double>& a, const std::vector<double>& b) {
    double most = 0;
    for (size_t s = 0; s < b.size(); ++s) most = std::max(most, std::abs(a[s] / b[s] - 1));
    return most;
  };
  for (const Sets& model : {Sets{}, kLora}) {
    const Sets base = with({"run.precision=bf16", "layout.bucket_bytes=16384", "optimizer.eps=1e-3"}, model);
    const Trained one = train(1, base, kSteps);
    const Sets wide = with(base, {"run.precision=fp32"});
    const Trained still = train(1, wide, kSteps);
    double loss_band = 0, norm_band = 0;
    for (int draw = 1; draw <= kDraws; ++draw) {
      const Trained moved = train(1, wide, kSteps, "", false, draw);
      loss_band = std::max(loss_band, 1.5 * std::sqrt(8.0) * furthest(moved.losses, still.losses));
      norm_band = std::max(norm_band, 1.5 * std::sqrt(8.0) * furthest(moved.norms, still.norms));
    }
    for (const Layout& l : layouts) {
      const Trained many = train(l.ranks, with(base, l.sets), kSteps, "", false, 0, !l.cut);
      const std::string what = cat(l.ranks, " ranks ", l.sets.empty() ? "" : l.sets[0]);
      const double loss = furthest(many.losses, one.losses), norm = furthest(many.norms, one.norms);
      double weight = 0;
      for (const auto& [name, v] : many.state)
        for (size_t i = 0; i < v.size() && !name.starts_with("optim."); ++i)
          weight = std::max(weight, std::abs(static_cast<double>(v[i]) - one.state.at(name)[i]));
      // Before steps amplify anything: a rounding or two of the loss, and gradients as far from each other as from
      // fp32.
      EXPECT_LE(std::abs(many.losses[0] / one.losses[0] - 1), 0x1p-7) << what;
      EXPECT_LE(std::abs(many.norms[0] / one.norms[0] - 1), 0.1) << what;
      EXPECT_LE(loss, l.cut ? loss_band : 1e-4) << what;
      EXPECT_LE(norm, l.cut ? norm_band : 1e-3) << what;
      EXPECT_LE(weight, 1e-4) << what << ": a tenth of what a step may move";
      std::cout << what << ": losses " << loss << ", norms " << norm << ", weights " << weight << "; bands "
                << loss_band << ", " << norm_band << std::endl;
    }
  }
}

// As in fp32 (zero_test.cpp): one gradient a rank and step, no clipping.
TEST(precision, policies_have_the_same_bits) {
  for (const Sets& model : {Sets{}, kLora}) {
    const Sets base =
        with({"run.precision=bf16", "layout.bucket_bytes=16384", "train.microbatches_per_step=2", "optimizer.clip=0"},
             model);
    const Trained want = train(2, base, 6);
    for (const char* zero : {"layout.zero=1", "layout.zero=2", "layout.zero=3"}) {
      const Trained got = train(2, with(base, {zero}), 6);
      EXPECT_EQ(got.hash, want.hash) << zero;
      EXPECT_EQ(got.losses, want.losses) << zero;
    }
  }
}

TEST(precision, resume_is_bitwise) {
  for (const Sets& model : {Sets{}, kLora})
    for (const auto& [ranks, zero] : {std::pair{1, 0}, {2, 0}, {2, 1}, {2, 3}}) {
      const Sets sets = with({"run.precision=bf16", cat("layout.zero=", zero)}, model);
      const Trained straight = train(ranks, sets, 8), saved = train(ranks, sets, 4, "", true);
      const Trained resumed = train(ranks, sets, 8, saved.checkpoint);
      EXPECT_EQ(resumed.hash, straight.hash) << ranks << ' ' << zero;
      EXPECT_EQ(resumed.losses, std::vector<double>(straight.losses.begin() + 4, straight.losses.end()));
      EXPECT_TRUE(resumed.state == straight.state) << ranks << ' ' << zero;
    }
}

// Trained weights and moments are the same bits in both; frozen weights are rounded on the way into bf16, and stay so.
TEST(precision, either_reads_the_checkpoints_of_the_other) {
  const Sets wide = {"run.precision=fp32"}, narrow = {"run.precision=bf16"};
  for (const Sets& model : {Sets{}, kLora})
    for (const int zero : {0, 1, 3})
      for (const bool widens : {false, true}) {
        const Sets more = with({cat("layout.zero=", zero)}, model);
        const Trained from = train(2, with(widens ? narrow : wide, more), 4, "", true);
        const Trained to = train(2, with(widens ? wide : narrow, more), 4, from.checkpoint);
        ASSERT_EQ(to.state.size(), from.state.size());
        for (const auto& [name, v] : from.state) {
          std::vector<float> want = v;
          const bool trained = from.state.contains("optim.m." + name) || name.starts_with("optim.");
          const bool stays_wide = name.starts_with("box_encoder.");
          if (!trained && !widens && !stays_wide) std::transform(want.begin(), want.end(), want.begin(), rounded);
          EXPECT_TRUE(to.state.at(name) == want) << name << " zero " << zero << (widens ? " into fp32" : " into bf16");
        }
        if (model.empty()) continue;  // a step on, loss and gradient are those of the other, a rounding or two apart
        const Trained on = train(2, with(widens ? wide : narrow, more), 5, from.checkpoint);
        const Trained straight = train(2, with(widens ? narrow : wide, more), 5);
        EXPECT_NEAR(on.losses[0] / straight.losses[4], 1, 0x1p-8);
        EXPECT_NEAR(on.norms[0] / straight.norms[4], 1, 0x1p-4);
      }
}

TEST(precision, gathers_of_values_take_half_the_bytes) {
  const Sets sets = {"layout.zero=3", "train.freeze.0=heads.*", "train.freeze.1=box_encoder.*"};
  const int64_t wide = train(2, sets, 1).gather_bytes,
                narrow = train(2, with(sets, {"run.precision=bf16"}), 1).gather_bytes;
  std::cout << "gathered " << wide << " and " << narrow << std::endl;
  EXPECT_LT(static_cast<double>(narrow), 0.55 * static_cast<double>(wide));
  EXPECT_GE(2 * narrow, wide);
}

TEST(precision, a_model_of_a_checkpoint_has_the_precision_of_its_configuration_or_another) {
  const Trained run = train(1, with({"run.precision=bf16"}, kLora), 2, "", true);
  const auto alone = make_single();
  for (const bool wide : {false, true}) {
    const CheckpointModel loaded(run.checkpoint, wide ? Sets{"run.precision=fp32"} : Sets{}, *alone);
    const TpoModel& model = loaded.model();
    for (const Param* p : {&model.language().embedding().weight(), model.language().lm_head().lora_a(),
                           &model.region_head().fc1().weight()}) {
      const bool narrow = p->value.dtype() == DType::kBF16;
      EXPECT_EQ(narrow, !wide && !p->name.starts_with("heads."));
      std::vector<float> want = run.state.at(p->name);
      if (narrow) std::transform(want.begin(), want.end(), want.begin(), rounded);
      EXPECT_TRUE(floats(p->value) == want) << p->name;
    }
  }
}

}  // namespace
}  // namespace tpo
