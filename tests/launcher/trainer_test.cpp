#include "launcher/trainer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "launcher/evaluator.h"
#include "parallel/comm/threads.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

std::vector<float> all_values(Trainer& t) {
  std::vector<float> v;
  for (const auto& p : t.store().params()) {
    const auto x = p->value.to_vector<float>();
    v.insert(v.end(), x.begin(), x.end());
  }
  return v;
}

TEST(trainer, loss_falls_and_the_same_run_gives_the_same_bits) {
  uint64_t hashes[2];
  for (uint64_t& hash : hashes) {
    const auto c = TinyRun::get().config({"train.steps=60", "optimizer.lr=3e-3", "optimizer.warmup_ratio=0.05"});
    const TrainingData data = make_training_data(c);
    const auto world = make_single();
    Trainer t(c, data, *world);
    double first = 0, last = 0;
    for (int s = 0; s < 60; ++s) {
      const StepStats stats = t.step();
      EXPECT_TRUE(std::isfinite(stats.grad_norm));
      EXPECT_EQ(stats.step, s + 1);
      if (s < 10) first += stats.lm;
      if (s >= 50) last += stats.lm;
    }
    EXPECT_LT(last, 0.7 * first);
    hash = t.parameter_hash();
  }
  EXPECT_EQ(hashes[0], hashes[1]);
}

// Losses and gradient norms (before clipping) are compared too: AdamW hides a wrong scale of the gradient, they do not.
// Gradients are sums over microbatches; another world size only changes the order of additions of fp32 values, so each
// step differs by a few units in the last place of the gradient, and AdamW's normalised update turns a relative
// gradient difference d into a weight difference of about lr * d. For parameters whose gradient is itself near rounding
// level the update can differ by up to lr per step; hence the bound on single values is steps * lr, and on the mean far
// lower.
TEST(trainer, two_and_four_ranks_equal_one_within_rounding) {
  const auto run = [](int ranks) {
    std::vector<float> result;
    std::vector<double> losses, norms;
    const auto c = TinyRun::get().config({"train.steps=6", "model.language.lora_dropout=0.1"});
    const TrainingData data = make_training_data(c);
    run_ranks(ranks, [&](ProcessGroup& world) {
      Trainer t(c, data, world);
      for (int s = 0; s < 6; ++s) {
        const StepStats stats = t.step();
        if (world.rank() == 0) losses.push_back(stats.lm + stats.region), norms.push_back(stats.grad_norm);
      }
      const auto mine = all_values(t);
      if (world.rank() == 0) result = mine;
    });
    losses.insert(losses.end(), norms.begin(), norms.end());
    return std::make_pair(result, losses);
  };
  const auto one = run(1);
  for (int ranks : {2, 4, 3}) {
    const auto many = run(ranks);
    ASSERT_EQ(one.first.size(), many.first.size());
    double worst = 0, mean = 0;
    for (size_t i = 0; i < one.first.size(); ++i) {
      const double d = std::fabs(static_cast<double>(one.first[i]) - many.first[i]);
      worst = std::max(worst, d), mean += d;
    }
    mean /= static_cast<double>(one.first.size());
    EXPECT_LE(worst, 6 * 1e-3) << ranks;
    EXPECT_LE(mean, 1e-6) << ranks;
    for (size_t s = 0; s < one.second.size(); ++s)
      EXPECT_NEAR(one.second[s], many.second[s], 2e-4 * one.second[s]) << s;
  }
}

// Heads of the real model that no sample of a step asks for: their weights, moments and step counts keep their bits,
// and nothing of them is reduced, whatever the policy and with a tensor axis too.
TEST(trainer, a_step_without_a_task_leaves_its_heads_as_they_were_and_sends_nothing_for_them) {
  const std::set<std::string> untouched{"head.region", "token.box", "token.temporal", "token.track", "box_input"};
  for (const char* layout : {"layout.zero=0", "layout.zero=1", "layout.zero=2", "layout.zero=3", "layout.tensor=2"}) {
    const auto c =
        TinyRun::get().config({"train.steps=4", "data.sets.0.end_step=2", "layout.bucket_bytes=4096", layout});
    const TrainingData data = make_training_data(c);
    run_ranks(std::string(layout) == "layout.tensor=2" ? 4 : 2, [&](ProcessGroup& world) {
      Trainer t(c, data, world);
      const auto snapshot = [&] {
        std::map<std::string, std::vector<float>> found;
        t.sync().for_each_state([&](const StateEntry& e) {
          for (const auto& p : t.store().params())
            if (e.name.ends_with(p->name) &&
                untouched.count(t.store().group_names()[static_cast<size_t>(p->group)]) == 1)
              found[e.name] = e.value.to_vector<float>();
        });
        return found;
      };
      while (t.steps_done() < 2) t.step();
      t.overlap();  // starts the account of operations anew
      const auto before = snapshot();
      const auto steps_before = t.sync().group_steps();
      while (t.steps_done() < 4) t.step();
      EXPECT_TRUE(snapshot() == before) << layout;
      EXPECT_FALSE(before.empty());
      for (const auto& [group, steps] : t.sync().group_steps())
        EXPECT_EQ(steps, steps_before.at(group) + (untouched.count(group) == 1 ? 0 : 2)) << layout << ": " << group;
      int64_t sent = 0;
      for (const CommUse& u : t.overlap().uses)
        for (const Bucket& b : t.sync().buckets()) {
          if (!u.what.starts_with(b.what)) continue;
          EXPECT_EQ(untouched.count(t.store().group_names()[static_cast<size_t>(b.group)]), 0u)
              << layout << ": " << u.what;
          sent += u.bytes;
        }
      EXPECT_TRUE(sent > 0 || world.rank() > 0) << layout;
    });
  }
}

TEST(trainer, resume_is_bitwise_in_one_process_and_at_any_world_size) {
  for (int ranks : {1, 2}) {
    uint64_t straight = 0, resumed = 0;
    const auto a = TinyRun::get().config(), b = TinyRun::get().config();
    const TrainingData data = make_training_data(a);
    run_ranks(ranks, [&](ProcessGroup& world) {
      {
        Trainer t(a, data, world);
        for (int s = 0; s < 10; ++s) t.step();
        const uint64_t hash = t.parameter_hash();
        if (world.rank() == 0) straight = hash;
      }
      std::string folder;
      {
        Trainer t(b, data, world);
        for (int s = 0; s < 5; ++s) t.step();
        folder = t.save();
      }
      Trainer t(b, data, world);
      EXPECT_EQ(t.resume(folder), "");
      EXPECT_EQ(t.steps_done(), 5);
      for (int s = 0; s < 5; ++s) t.step();
      const uint64_t hash = t.parameter_hash();
      if (world.rank() == 0) resumed = hash;
    });
    EXPECT_EQ(straight, resumed) << ranks;
  }
}

TEST(trainer, a_checkpoint_of_four_ranks_continues_on_one) {
  const auto a = TinyRun::get().config(), b = TinyRun::get().config();
  const TrainingData data = make_training_data(a);
  const auto alone = make_single();
  Trainer straight(a, data, *alone);
  std::vector<StepStats> want;
  for (int s = 0; s < 10; ++s) want.push_back(straight.step());
  std::string folder;
  run_ranks(4, [&](ProcessGroup& world) {
    Trainer t(b, data, world);
    for (int s = 0; s < 5; ++s) t.step();
    const std::string saved = t.save();
    if (world.rank() == 0) folder = saved;
  });
  Trainer t(b, data, *alone);
  EXPECT_EQ(t.resume(folder), "");
  for (int s = 5; s < 10; ++s) {
    const StepStats got = t.step();
    // Wrong moments or step counts would change the weights, and with them loss and gradient, from the first step on.
    EXPECT_NEAR(got.lm, want[static_cast<size_t>(s)].lm, 2e-4 * got.lm);
    EXPECT_NEAR(got.grad_norm, want[static_cast<size_t>(s)].grad_norm, 2e-3 * got.grad_norm);
  }
}

TEST(trainer, a_loss_that_is_not_finite_stops_before_the_update_and_names_the_samples) {
  const auto c = TinyRun::get().config();
  const TrainingData data = make_training_data(c);
  run_ranks(2, [&](ProcessGroup& world) {
    Trainer t(c, data, world);
    t.step();
    Param* bad = t.store().find("language.norm.weight");
    ASSERT_NE(bad, nullptr) << "first: " << t.store().params().front()->name
                            << " last: " << t.store().params().back()->name;
    bad->value.data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
    const auto before = t.parameter_hash();
    try {
      t.step();
      FAIL() << "the step must throw";
    } catch (const NonFiniteGradient& e) {
      const std::string text = e.what();
      EXPECT_NE(text.find("not finite"), std::string::npos) << text;
      EXPECT_NE(text.find("samples "), std::string::npos) << text;
    }
    EXPECT_EQ(t.parameter_hash(), before);
    EXPECT_EQ(t.steps_done(), 1);
  });
}

TEST(trainer, meta_predicts_peak_bytes_launches_and_flops_of_a_real_step) {
  for (const auto& [recompute, precision] :
       {std::pair{"none", "fp32"}, {"selective", "fp32"}, {"full", "fp32"}, {"none", "bf16"}, {"full", "bf16"}}) {
    struct Seen {
      int64_t peak, launches, flops;
      std::map<std::string, int64_t, std::less<>> kernels;
    };
    const auto run = [mode = recompute, storage = precision](const std::string& device) {
      const auto c = TinyRun::get().config(
          {"run.device=" + device, cat("model.recompute=", mode), cat("run.precision=", storage)});
      const TrainingData data = make_training_data(c);
      const auto world = make_single();
      Trainer t(c, data, *world);
      for (int s = 0; s < 3; ++s) t.step();
      return Seen{t.stream().allocator()->stats().peak_bytes, t.stream().counters().launches,
                  t.stream().counters().flops, t.stream().launches_by_kernel()};
    };
    const Seen cpu = run("cpu"), meta = run("meta");
    EXPECT_EQ(cpu.peak, meta.peak) << recompute;
    EXPECT_EQ(cpu.launches, meta.launches) << recompute;
    EXPECT_EQ(cpu.flops, meta.flops) << recompute;
    EXPECT_EQ(cpu.kernels, meta.kernels) << recompute;
    EXPECT_GT(cpu.peak, 0);
  }
}

// Operations of recomputation reported as if they were the model's were a bug of another trainer (Colossal-AI).
TEST(trainer, recomputed_operations_are_not_the_models) {
  const auto flops = [](const char* recompute) {
    const auto c = TinyRun::get().config({cat("model.recompute=", recompute)});
    const TrainingData data = make_training_data(c);
    const auto alone = make_single();
    const StepStats s = Trainer(c, data, *alone).step();
    return std::pair(s.model_flops, s.flops);
  };
  const auto none = flops("none"), full = flops("full"), selective = flops("selective");
  EXPECT_EQ(none.first, full.first);
  EXPECT_EQ(none.first, selective.first);
  EXPECT_LT(none.first, none.second) << "attention forms its scores twice";
  EXPECT_LT(none.second, selective.second);
  EXPECT_LT(selective.second, full.second);
}

TEST(trainer, frozen_patterns_hold_and_a_pattern_without_a_match_is_an_error) {
  const auto c = TinyRun::get().config({"train.freeze.0=*", "train.train.0=heads.region.*", "train.train.1=*lora*"});
  const TrainingData data = make_training_data(c);
  const auto world = make_single();
  Trainer t(c, data, *world);
  std::map<std::string, std::vector<float>> before;
  for (const auto& p : t.store().params()) before[p->name] = p->value.to_vector<float>();
  for (int s = 0; s < 4; ++s) t.step();
  int moved = 0;
  for (const auto& p : t.store().params()) {
    const bool trains = p->name.starts_with("heads.region.") || p->name.find("lora") != std::string::npos;
    if (trains) {
      moved += p->value.to_vector<float>() != before[p->name];
    } else {
      EXPECT_EQ(p->value.to_vector<float>(), before[p->name]) << p->name;
    }
  }
  EXPECT_GT(moved, 4);
  // A pattern for everything does not reach a detached embedding, which never gets a gradient.
  const auto detached = TinyRun::get().config({"model.language.detach_embeddings=true", "train.train.0=*"});
  Trainer d(detached, data, *world);
  EXPECT_NO_THROW(d.step());
  EXPECT_THROW(TinyRun::get().config({"train.freeze.0=visoin.*"}), ConfigError);
}

// Microbatches of conversations ask for no boxes: with heads that train alone they have no gradient, on some ranks or
// on all.
TEST(trainer, microbatches_in_which_nothing_trains_contribute_nothing) {
  for (const char* zero : {"0", "1", "2", "3"}) {
    const auto c = TinyRun::get().config({"train.freeze.0=*", "train.train.0=heads.region.*", "optimizer.eps=1e-3",
                                          cat("layout.zero=", zero), "layout.bucket_bytes=4096"});
    const TrainingData data = make_training_data(c);
    std::vector<StepStats> seen[2];
    for (const int ranks : {1, 2}) {
      run_ranks(ranks, [&](ProcessGroup& world) {
        Trainer t(c, data, world);
        for (int s = 0; s < 4; ++s) {
          const StepStats stats = t.step();
          if (world.rank() == 0) seen[ranks - 1].push_back(stats);
        }
      });
    }
    for (size_t s = 0; s < 4; ++s) {
      const StepStats &one = seen[0][s], &two = seen[1][s];
      EXPECT_EQ(one.counts.regions, two.counts.regions);
      if (one.counts.regions > 0) {
        EXPECT_GT(one.grad_norm, 0) << zero << " step " << s;
      }
      // Sums of two ranks in another order: a few times 2^-24.
      EXPECT_NEAR(one.region, two.region, 1e-5 * one.region) << zero << " step " << s;
      EXPECT_NEAR(one.grad_norm, two.grad_norm, 1e-4 * one.grad_norm) << zero << " step " << s;
    }
  }
}

TEST(trainer, a_checkpoint_of_another_model_is_refused_and_changes_nothing) {
  const auto small = TinyRun::get().config(), other = TinyRun::get().config({"model.language.layers=3"});
  // The same shapes, another function: positions turn at another speed.
  const auto turned = TinyRun::get().config({"model.language.rope_theta=500"});
  const TrainingData data = make_training_data(small);
  const auto world = make_single();
  std::string folder;
  {
    Trainer t(other, data, *world);
    folder = t.save();
  }
  Trainer t(small, data, *world);
  const auto before = t.parameter_hash();
  try {
    t.resume(folder);
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("layers: 3"), std::string::npos) << e.what();
  }
  {
    Trainer other_theta(turned, data, *world);
    folder = other_theta.save();
  }
  EXPECT_THROW(t.resume(folder), ConfigError);
  EXPECT_EQ(t.parameter_hash(), before);
}

// The scores mean nothing; that ranks share the samples, and that every answer and box is counted once, is shown by a
// model that has learned to answer with boxes.
TEST(evaluator, scores_are_the_same_for_any_number_of_ranks_and_pictures_are_drawn) {
  const auto c = TinyRun::get().config({"train.steps=240", "optimizer.lr=5e-3", "optimizer.warmup_ratio=0.02",
                                        "model.language.train_new_rows=true", "model.language.detach_embeddings=false",
                                        "model.language.lora_dropout=0"});
  const TrainingData data = make_training_data(c);
  std::string checkpoint;
  {
    const auto alone = make_single();
    Trainer t(c, data, *alone);
    while (t.steps_done() < c.train().steps()) t.step();
    checkpoint = t.save();
  }
  const std::string pictures = c.run().folder() + "/pictures";
  std::vector<EvalResult> results;
  std::vector<std::string> drawn;  // the boxes themselves are in the pictures
  for (int ranks : {1, 3}) {
    run_ranks(ranks, [&](ProcessGroup& world) {
      Trainer t(c, data, world);
      t.resume(checkpoint);
      for (const auto& folder : data.folders) {
        EvalOptions options;
        options.samples = 7;
        options.generate.max_new_tokens = 12;
        options.generate.sample = true;  // drawn by sample and turn, on whatever rank
        options.generate.rules.temperature = 0.3f;
        options.pictures = 2;
        options.picture_folder = pictures;
        const EvalResult r = evaluate(t.model(), *folder, *data.templates, make_collate_options(c), options, world);
        if (world.rank() == 0) results.push_back(r);
      }
    });
    std::ifstream picture(pictures + "/" + results[0].dataset + "_0.png", std::ios::binary);
    drawn.emplace_back(std::istreambuf_iterator<char>(picture), std::istreambuf_iterator<char>());
    std::filesystem::remove_all(pictures);
  }
  ASSERT_EQ(results.size(), 4u);
  EXPECT_GT(results[0].boxes_given, 0) << "the model was to learn the trigger";
  EXPECT_FALSE(drawn[0].empty());
  EXPECT_EQ(drawn[0], drawn[1]);
  EXPECT_GT(results[1].answers, 0);
  EXPECT_GT(results[1].exact, 0);
  for (size_t i : {0, 1}) {
    EXPECT_EQ(results[i].boxes, results[i + 2].boxes);
    EXPECT_EQ(results[i].boxes_given, results[i + 2].boxes_given);
    EXPECT_EQ(results[i].mean_iou, results[i + 2].mean_iou);
    EXPECT_EQ(results[i].exact, results[i + 2].exact);
    EXPECT_EQ(results[i].most_frequent, results[i + 2].most_frequent);
  }
}

TEST(evaluator, questions_longer_than_the_model_takes_are_counted_and_left_out) {
  const auto c = TinyRun::get().config();
  const TrainingData data = make_training_data(c);
  const auto alone = make_single();
  Trainer t(c, data, *alone);
  const DatasetFolder& folder = *data.folders[1];
  TemplateOptions options = data.templates->options();
  EvalOptions eval;
  eval.samples = 4;
  eval.generate.max_new_tokens = 1;
  const EvalResult whole = evaluate(t.model(), folder, *data.templates, make_collate_options(c), eval, *alone);
  EXPECT_EQ(whole.too_long, 0);
  // The first question of a sample fits, later ones do not.
  options.max_tokens = data.templates->encode_prompt(folder.read(0).sample, 0).tokens.size() + 4;
  const Templates narrow(*data.tokenizer, options);
  const EvalResult r = evaluate(t.model(), folder, narrow, make_collate_options(c), eval, *alone);
  EXPECT_GT(r.answers, 0);
  EXPECT_GT(r.too_long, 0);
  EXPECT_EQ(r.answers + r.too_long, whole.answers);
  EXPECT_NE(describe(r).find("were not asked"), std::string::npos) << describe(r);
}

}  // namespace
}  // namespace tpo
