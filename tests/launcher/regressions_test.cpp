// Bugs that users of other trainers met in multi-task, multi-rank training, each as a test of this one. The number is
// that of the list they come from; the link says where it was seen.
//   2 and 7 also: trainer_test (resume), mixer_test; 6 also: tensor_loss_test; 9 and 11 also: zero tests of parallel/;
//   12, operations of recomputation counted as the model's (Colossal-AI): recomputed_operations_are_not_the_models of
//   trainer_test.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <mutex>
#include <set>

#include "launcher/trainer.h"
#include "parallel/comm/threads.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

// The layouts in which each of them is tried.
const std::vector<std::vector<std::string>> kLayouts = {{},
                                                        {"layout.zero=1"},
                                                        {"layout.zero=2"},
                                                        {"layout.zero=3"},
                                                        {"layout.zero=3", "layout.reshard_after_forward=false"}};

config::RunConfig config_of(std::vector<std::string> sets, const std::vector<std::string>& more = {}) {
  sets.insert(sets.end(), more.begin(), more.end());
  return TinyRun::get().config(sets);
}

std::unique_ptr<Loader> loader_of(const config::RunConfig& c, const TrainingData& data, int rank, int world,
                                  int64_t from = 0) {
  LoaderOptions options;
  options.rank = rank, options.world = world, options.start_step = from;
  options.collate = make_collate_options(c);
  return std::make_unique<Loader>(*data.mixer, data.loader_sets(), options);
}

// The error that every rank must throw alike, not one of them while the others wait.
std::string error_on_all(ProcessGroup& world, const std::function<void()>& fn) {
  std::string text = "nothing was thrown";
  try {
    fn();
  } catch (const NonFiniteGradient& e) {
    text = e.what();
  }
  for (const auto& theirs : world.all_gather_bytes(std::as_bytes(std::span(text.data(), text.size()))))
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(theirs.data()), theirs.size()), text);
  return text;
}

// 1. An infinity found on the ranks that ran the encoder only; the others went on to reduce the gradient norm and hung
// (Megatron-LM, megatron/core MIMO optimizer). First in a picture, which the loss shows, then in a gradient alone,
// which only the norm of their sum does.
TEST(regressions, n01_an_infinity_of_one_rank_stops_all_before_the_update) {
  for (const auto& layout : kLayouts) {
    const auto c = config_of(layout);
    const TrainingData data = make_training_data(c);
    run_ranks(2, [&](ProcessGroup& world) {
      Trainer t(c, data, world);
      const auto loader = loader_of(c, data, world.rank(), 2);
      const uint64_t before = t.parameter_hash();
      LocalStep local = loader->next();
      for (HostBatch& batch : local.batches) {
        const auto images = batch.arrays.find("images");
        if (world.rank() == 0 || images == batch.arrays.end()) continue;
        const float inf = std::numeric_limits<float>::infinity();
        std::memcpy(images->second.bytes.data(), &inf, sizeof inf);
      }
      const std::string text = error_on_all(world, [&] { t.step(local); });
      EXPECT_NE(text.find("not finite"), std::string::npos) << text;
      EXPECT_EQ(t.parameter_hash(), before);
      EXPECT_EQ(t.steps_done(), 0);
      EXPECT_TRUE(std::isfinite(t.step(loader->next()).grad_norm)) << "the next step runs as if nothing had been";
    });
  }
}

// Hands gradients on, and an infinity in the first that comes.
struct Poison final : ParamHooks {
  explicit Poison(BucketSync& to) : sync(to) {}
  void before_use(Param& p) override { sync.before_use(p); }
  void before_grad(Param& p) override { sync.before_grad(p); }
  void on_grad_ready(Param& p) override {
    if (!done) p.grad.data<float>()[0] = std::numeric_limits<float>::infinity();
    done = true;
    sync.on_grad_ready(p);
  }
  void on_swept(Param& p) override { sync.on_swept(p); }
  bool follows_uses(const Param& p) const override { return sync.follows_uses(p); }
  BucketSync& sync;
  bool done = false;
};

TEST(regressions, n01_an_infinity_in_a_gradient_of_one_rank_stops_all_before_the_update) {
  for (const auto& layout : kLayouts) {
    const auto c = config_of(layout);
    const TrainingData data = make_training_data(c);
    run_ranks(2, [&](ProcessGroup& world) {
      Trainer t(c, data, world);
      const uint64_t before = t.parameter_hash();
      Poison poison(t.sync());
      if (world.rank() == 1) t.store().set_hooks(&poison);
      const std::string text = error_on_all(world, [&] { t.step(); });
      t.store().set_hooks(&t.sync());
      EXPECT_NE(text.find("the gradient of parameter '"), std::string::npos) << text;
      EXPECT_NE(text.find("nothing was updated"), std::string::npos) << text;
      EXPECT_EQ(t.parameter_hash(), before);
      EXPECT_EQ(t.steps_done(), 0);
      EXPECT_TRUE(std::isfinite(t.step().grad_norm)) << "the next step runs as if nothing had been";
    });
  }
}

// 2. Random state of one rank saved as everybody's: after every resume 252 of 256 ranks drew the wrong numbers
// (Megatron-LM PR 6858). Here every rank draws for the samples it has, and a resumed run draws the same.
TEST(regressions, n02_dropout_after_resume_is_that_of_the_uninterrupted_run_on_every_rank) {
  for (const auto& layout : kLayouts) {
    const auto a = config_of(layout, {"model.language.lora_dropout=0.5"});
    const auto b = config_of(layout, {"model.language.lora_dropout=0.5"});
    const TrainingData data = make_training_data(a);
    run_ranks(4, [&](ProcessGroup& world) {
      Trainer straight(a, data, world);
      for (int s = 0; s < 4; ++s) straight.step();
      const uint64_t want = straight.parameter_hash();
      std::string folder;
      {
        Trainer t(b, data, world);
        t.step(), t.step();
        folder = t.save();
      }
      Trainer t(b, data, world);
      EXPECT_EQ(t.resume(folder), "");
      t.step(), t.step();
      EXPECT_EQ(t.parameter_hash(), want);
    });
  }
}

// 3. Modules that saved their state under one key, and one of them came back (Megatron-Bridge PR 3832).
TEST(regressions, n03_two_parts_of_a_model_cannot_share_a_name_in_a_checkpoint) {
  ParamStore store(1);
  store.create("encoder.step", {2}, Init::constant(1), 0);
  EXPECT_THROW(store.create("encoder.step", {2}, Init::constant(2), 0), ConfigError);
  const auto alone = make_single();
  TrainState state;
  for (const float v : {1.0f, 2.0f})
    state.tensors.push_back({"common.step", Tensor::from(std::vector<float>{v, v}, {2}), {2}, 0, {}});
  EXPECT_THROW(save(TinyRun::get().folder() + "/colliding", 1, state, *alone), ConfigError);
}

// 4. A save meant for rank 0 alone with a collective hidden in it (transformers PR 48569).
TEST(regressions, n04_a_save_takes_all_ranks_through_the_same_collectives) {
  for (const auto& layout : kLayouts) {
    const auto c = config_of(layout);
    const TrainingData data = make_training_data(c);
    run_ranks(3, [&](ProcessGroup& world) {
      Trainer t(c, data, world);
      t.step();
      t.save();
      const auto issued = static_cast<int64_t>(world.collectives_issued());
      EXPECT_EQ(world.all_reduce_value(issued, ReduceOp::kMax), issued);
      t.step();
    });
  }
}

// 5. Frozen parameters that a sharded save left out came back random (DeepSpeed #3090).
TEST(regressions, n05_frozen_parameters_are_saved_and_come_back) {
  for (const auto& layout : kLayouts) {
    const auto c = config_of(layout, {"train.freeze.0=vision.*", "train.freeze.1=language.layers.*"});
    const auto other =
        config_of(layout, {"train.freeze.0=vision.*", "train.freeze.1=language.layers.*", "run.seed=99"});
    const TrainingData data = make_training_data(c);
    run_ranks(2, [&](ProcessGroup& world) {
      Trainer t(c, data, world);
      t.step();
      const std::string folder = t.save();
      Trainer fresh(other, data, world);  // another seed: nothing is right by chance
      EXPECT_NE(fresh.parameter_hash(), t.parameter_hash());
      fresh.resume(folder);
      EXPECT_EQ(fresh.parameter_hash(), t.parameter_hash());
    });
  }
}

// 6. Over half of the loss wrong with a vocabulary that the tensor axis does not divide (Megatron-LM #1754).
TEST(regressions, n06_a_vocabulary_that_does_not_divide_gives_the_loss_of_one_rank) {
  const auto losses = [](int ranks) {
    const auto c = config_of({"model.vision.heads=4"}, {cat("layout.tensor=", ranks)});
    const TrainingData data = make_training_data(c);
    std::vector<double> out;
    run_ranks(ranks, [&](ProcessGroup& world) {
      Trainer t(c, data, world);
      EXPECT_NE((data.vocab + 7) % 2, 0);
      for (int s = 0; s < 3; ++s) {
        const StepStats stats = t.step();
        if (world.rank() == 0) out.push_back(stats.lm);
      }
    });
    return out;
  };
  const auto one = losses(1);
  for (const int ranks : {2, 3, 4}) {
    const auto many = losses(ranks);
    for (size_t s = 0; s < one.size(); ++s) EXPECT_NEAR(many[s], one[s], 1e-5 * one[s]) << ranks;
  }
}

// 7. From two ranks to one, and rank 1's place in the data was dropped without a word (Megatron-Bridge PR 5637).
TEST(regressions, n07_every_world_size_sees_the_same_samples_in_the_same_steps) {
  const auto c = config_of({});
  const TrainingData data = make_training_data(c);
  std::vector<std::multiset<std::string>> want;
  for (const int world : {1, 2, 3, 4, 5}) {
    std::vector<std::multiset<std::string>> seen(6);
    for (int rank = 0; rank < world; ++rank) {
      // Two steps, then a resume.
      for (const int64_t begin : {0, 2}) {
        const auto loader = loader_of(c, data, rank, world, begin);
        for (int64_t s = begin; s < (begin == 0 ? 2 : 6); ++s)
          for (const HostBatch& batch : loader->next().batches)
            seen[static_cast<size_t>(s)].insert(batch.sample_ids.begin(), batch.sample_ids.end());
      }
    }
    if (world == 1) want = seen;
    EXPECT_EQ(seen, want) << world;
  }
}

// 8. A rank without a valid label skipped its collectives, or divided 0 by 0.
TEST(regressions, n08_a_rank_without_labels_takes_part_and_nobody_divides_by_zero) {
  for (const auto& layout : kLayouts) {
    const auto c = config_of(layout);
    const TrainingData data = make_training_data(c);
    run_ranks(2, [&](ProcessGroup& world) {
      Trainer t(c, data, world);
      const auto loader = loader_of(c, data, world.rank(), 2);
      for (const bool everybody : {false, true}) {
        LocalStep local = loader->next();
        const int first = local.plan.local(1, 2).first;
        for (size_t m = 0; m < local.plan.microbatches.size(); ++m)
          if (everybody || static_cast<int>(m) >= first)
            local.plan.total.loss_tokens -= local.plan.microbatches[m].counts.loss_tokens;
        for (HostBatch& batch : local.batches) {
          if (!everybody && world.rank() == 0) continue;
          HostArray& targets = batch.arrays.at("targets");
          std::vector<int32_t> none(static_cast<size_t>(targets.shape.numel()), -100);
          targets = HostArray::from(none, targets.shape);
        }
        const StepStats s = t.step(local);
        EXPECT_TRUE(std::isfinite(s.lm) && std::isfinite(s.grad_norm));
        EXPECT_EQ(s.lm == 0, everybody);
      }
    });
  }
}

// 9. A parameter was gathered ahead for a module that the batch then skipped, and the next use waited for ever
// (DeepSpeed PR 6557). 11. A head called once on one rank and more often on another (DeepSpeed #7998).
TEST(regressions, n09_n11_ranks_use_different_heads_different_numbers_of_times) {
  for (const auto& layout : kLayouts) {
    for (const char* ahead : {"0", "1", "100"}) {
      // Five microbatches over three ranks of a mixture whose tasks alternate: no two ranks run the same.
      const std::vector<std::string> more = {"train.microbatches_per_step=5", cat("layout.prefetch_buckets=", ahead),
                                             "layout.bucket_bytes=8192", "optimizer.eps=1e-3"};
      const auto c = config_of(layout, more);
      const TrainingData data = make_training_data(c);
      const auto alone = make_single();
      Trainer one(c, data, *alone);
      std::vector<StepStats> want;
      for (int s = 0; s < 4; ++s) want.push_back(one.step());
      run_ranks(3, [&](ProcessGroup& world) {
        Trainer t(c, data, world);
        for (int s = 0; s < 4; ++s) {
          const StepStats got = t.step();
          EXPECT_NEAR(got.lm, want[static_cast<size_t>(s)].lm, 1e-5 * got.lm);
          EXPECT_NEAR(got.grad_norm, want[static_cast<size_t>(s)].grad_norm, 1e-4 * got.grad_norm);
        }
      });
    }
  }
}

// 10. A finite dataset ended on different steps on different ranks (torchtitan forbids it for that reason). A step here
// is the same on every rank whatever the sizes: datasets repeat, and each sample has been seen equally often.
TEST(regressions, n10_a_dataset_smaller_than_a_step_ends_on_no_rank) {
  const auto c = config_of({}, {"train.microbatches_per_step=8", "train.samples_per_microbatch=3", "train.steps=30"});
  const TrainingData data = make_training_data(c);
  std::map<std::string, int> seen;
  std::mutex mutex;
  run_ranks(4, [&](ProcessGroup& world) {
    const auto loader = loader_of(c, data, world.rank(), 4);
    for (int s = 0; s < 30; ++s) {
      const LocalStep local = loader->next();
      EXPECT_EQ(local.batches.size(), 2u);
      const std::scoped_lock lock(mutex);
      for (const HostBatch& batch : local.batches)
        for (const std::string& id : batch.sample_ids) ++seen[id];
    }
  });
  // 30 steps x 4 microbatches x 3 samples of each of two sets of 12: thirty times each.
  EXPECT_EQ(seen.size(), 24u);
  for (const auto& [id, times] : seen) EXPECT_EQ(times, 30) << id;
}

}  // namespace
}  // namespace tpo
