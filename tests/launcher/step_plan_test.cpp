// A plan against what a real step does: the same bytes, kind by kind and phase by phase.
#include "launcher/step_plan.h"

#include <gtest/gtest.h>

#include <set>

#include "launcher/trainer.h"
#include "parallel/comm/threads.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

int64_t of(const BytesByKind& bytes, MemoryKind kind) { return bytes[static_cast<size_t>(kind)]; }

void expect_equal(const MemoryUse& plan, const MemoryUse& real) {
  EXPECT_EQ(plan.live, real.live);
  EXPECT_EQ(plan.peak, real.peak);
  ASSERT_EQ(plan.phases.size(), real.phases.size());
  for (size_t i = 0; i < plan.phases.size(); ++i) {
    EXPECT_EQ(plan.phases[i].phase, real.phases[i].phase);
    EXPECT_EQ(plan.phases[i].kernel, real.phases[i].kernel) << plan.phases[i].phase;
    EXPECT_EQ(plan.phases[i].bytes, real.phases[i].bytes) << plan.phases[i].phase;
    EXPECT_EQ(plan.phases[i].by_kind, real.phases[i].by_kind) << plan.phases[i].phase;
  }
}

// The microbatches of the first step, as the loader makes them.
LocalStep first_step(const config::RunConfig& c, const TrainingData& data) {
  LoaderOptions options;
  options.collate = make_collate_options(c);
  return Loader(*data.mixer, data.loader_sets(), options).next();
}

// The last rank of the tensor axis under every layout, on rank threads, where shared buffers are ordinary memory as in
// simulated groups; no other rank needs more.
TEST(step_plan, every_byte_of_a_rank_is_foreseen_under_any_layout) {
  struct Layout {
    int data, tensor;
    std::vector<std::string> sets;
  };
  // Parts that differ: 2, 2 and 3 of 7 heads, 21 or 22 of 65 hidden columns.
  const std::vector<std::string> uneven = {"model.vision.heads=7", "model.vision.width=56", "model.language.heads=5",
                                           "model.language.kv_heads=5", "model.language.mlp_hidden=65"};
  const std::vector<Layout> layouts = {
      {2, 1, {"layout.zero=1"}},
      {2, 1, {"layout.zero=2"}},
      {2, 1, {"layout.zero=3"}},
      {4, 1, {"layout.zero=3", "layout.shard_ranks=2", "layout.prefetch_buckets=0"}},
      {2, 1, {"layout.zero=3", "train.freeze.0=language.*", "train.train.0=*lora_?"}},
      {1, 2, {}},
      {2, 2, {"layout.zero=3", "layout.sequence_parallel=true"}},
      {2, 1, {"layout.zero=0", "run.precision=bf16"}},
      {2, 1, {"layout.zero=1", "run.precision=bf16"}},
      {2, 2, {"layout.zero=3", "run.precision=bf16"}},
      {2, 1, {"layout.zero=3", "run.precision=bf16", "train.freeze.0=language.*", "train.train.0=*lora_?"}},
      {1, 3, uneven},
      {2,
       3,
       {"layout.zero=3", "model.vision.heads=4", "model.language.heads=3", "model.language.kv_heads=1",
        "model.language.mlp_hidden=67"}}};
  for (const Layout& layout : layouts) {
    std::vector<std::string> sets = {"layout.bucket_bytes=16384", "train.microbatches_per_step=4",
                                     cat("layout.tensor=", layout.tensor)};
    sets.insert(sets.end(), layout.sets.begin(), layout.sets.end());
    SCOPED_TRACE(cat(layout.data, " x ", layout.tensor, " ", sets.back()));
    const auto c = TinyRun::get().config(sets);
    const TrainingData data = make_training_data(c);
    const LocalStep whole = first_step(c, data);
    // Every rank runs the same microbatches: the plan's assumption.
    std::vector<MicrobatchSize> sizes;
    int64_t largest = 0, smallest = 0, foreseen = 0;
    for (int i = 0; i < 2; ++i) sizes.push_back(size_of(whole.batches[0], whole.plan.microbatches[0].counts));
    run_ranks(layout.data * layout.tensor, [&](ProcessGroup& world) {
      Trainer trainer(c, data, world);
      LocalStep local = make_local_step(sizes, trainer.model(), layout.data);
      local.batches = {whole.batches[0], whole.batches[0]};
      trainer.step(local);
      const MemoryUse real = trainer.stream().allocator()->memory();
      const int64_t peak = world.all_reduce_value(real.at_peak().bytes, ReduceOp::kMax);
      const int64_t least = -world.all_reduce_value(-real.at_peak().bytes, ReduceOp::kMax);
      const auto live = [&] { return trainer.stream().allocator()->stats().live_bytes; };
      const int64_t between_steps = live();
      int64_t all_values = 0;
      trainer.sync().with_full_values([&] { all_values = live(); });
      if (world.rank() == layout.tensor - 1) {
        const StepNeeds plan = plan_step(c, data.vocab, sizes, layout.data);
        expect_equal(plan.memory, real);
        EXPECT_EQ(plan.whole_values_bytes, all_values);
        EXPECT_EQ(all_values > between_steps, c.layout().zero() == 3);
        largest = peak, smallest = least, foreseen = plan.memory.at_peak().bytes;
      }
      world.barrier("compared").wait_host();
    });
    EXPECT_EQ(foreseen, largest);
    EXPECT_EQ(smallest < largest, layout.tensor == 3) << smallest;
  }
}

TEST(step_plan, orders_of_kinds_have_every_neighbourhood) {
  using Orders = std::vector<std::vector<size_t>>;
  EXPECT_EQ(orders_of_kinds(2, 5, false), (Orders{{0, 0, 1, 1}}));
  EXPECT_EQ(orders_of_kinds(3, 1, false), (Orders{{0, 1, 2}}));
  EXPECT_EQ(orders_of_kinds(1, 3, true), (Orders{{0, 0, 0}}));
  EXPECT_EQ(orders_of_kinds(1, 100, true), (Orders{{0, 0, 0, 0}}));
  EXPECT_EQ(orders_of_kinds(2, 2, true), (Orders{{0, 0}, {0, 1}, {1, 0}, {1, 1}}));
  EXPECT_EQ(orders_of_kinds(9, 4, true)[0].size(), 36u);
  for (const size_t kinds : {2, 3, 5}) {
    const Orders orders = orders_of_kinds(kinds, 6, true);
    ASSERT_EQ(orders.size(), 1u);
    const size_t n = kinds <= 3 ? 3 : 2;
    std::set<std::vector<size_t>> runs;
    for (size_t i = 0; i + n <= orders[0].size(); ++i) runs.insert({&orders[0][i], &orders[0][i] + n});
    EXPECT_EQ(runs.size(), n == 3 ? kinds * kinds * kinds : kinds * kinds);
    EXPECT_EQ(orders[0].size(), runs.size() + n - 1) << "no longer than it must be";
  }
}

// Gathers come ahead of the microbatch that needs them and reductions end in the one after: what a step needs depends
// on the order of its microbatches, and a plan on none.
TEST(step_plan, no_order_of_microbatches_needs_more_than_the_plan_says) {
  for (const std::string sets : {"layout.zero=1", "layout.zero=2", "layout.zero=3"}) {
    for (const std::string ahead : {"layout.prefetch_buckets=0", "layout.prefetch_buckets=2"}) {
      SCOPED_TRACE(cat(sets, ' ', ahead));
      const auto c = TinyRun::get().config({sets, ahead, "layout.bucket_bytes=16384"});
      StepShape::Kind all = shape_of_limits(c, 1).kinds[0], text = all;
      text.size.media = text.size.regions = text.size.box_inputs = 0;
      const std::vector<StepShape::Kind> kinds{all, text};
      for (const size_t local : {2, 3, 5}) {
        const StepNeeds plan = plan_steps(c, 400, kinds, static_cast<int64_t>(local), 2);
        int64_t most = 0;
        for (size_t order = 0; order < size_t{1} << local; ++order) {
          std::vector<MicrobatchSize> sizes;
          for (size_t i = 0; i < local; ++i) sizes.push_back(kinds[order >> i & 1].size);
          most = std::max(most, plan_step(c, 400, sizes, 2).memory.at_peak().bytes);
        }
        EXPECT_EQ(most, plan.memory.at_peak().bytes) << local;
      }
    }
  }
}

// As a user plans: one kind, and a step of six microbatches for real.
TEST(step_plan, a_real_step_of_many_microbatches_needs_what_the_plan_of_few_says) {
  for (const std::string zero : {"layout.zero=1", "layout.zero=2", "layout.zero=3"}) {
    SCOPED_TRACE(zero);
    const auto c = TinyRun::get().config({zero, "layout.bucket_bytes=16384"});
    const TrainingData data = make_training_data(c);
    const LocalStep whole = first_step(c, data);
    const StepShape::Kind kind{"real", size_of(whole.batches[0], whole.plan.microbatches[0].counts)};
    const StepNeeds plan = plan_steps(c, data.vocab, {&kind, 1}, 6, 2);
    run_ranks(2, [&](ProcessGroup& world) {
      Trainer trainer(c, data, world);
      LocalStep local = make_local_step(std::vector(6, kind.size), trainer.model(), 2);
      local.batches.assign(6, whole.batches[0]);
      trainer.step(local);
      if (world.rank() == 0) expect_equal(plan.memory, trainer.stream().allocator()->memory());
    });
  }
}

TEST(step_plan, every_byte_of_a_real_step_is_foreseen) {
  const auto& tiny = TinyRun::get();
  for (const std::string& freeze : {std::string("heads.region.fc1.bias"), std::string("*weight")}) {
    std::vector<int64_t> activations;
    for (const std::string recompute : {"none", "selective", "full"}) {
      SCOPED_TRACE(cat(recompute, ", frozen ", freeze));
      // Several blocks, or what full recompute keeps would not be less than what it uses in one.
      const auto c = tiny.config({"model.recompute=" + recompute, "train.freeze.0=" + freeze, "model.vision.depth=4",
                                  "model.language.layers=4"});
      const TrainingData data = make_training_data(c);
      const LocalStep local = first_step(c, data);
      std::vector<MicrobatchSize> sizes;
      for (size_t i = 0; i < local.batches.size(); ++i)
        sizes.push_back(size_of(local.batches[i], local.plan.microbatches[i].counts));
      const auto world = make_single();
      Trainer trainer(c, data, *world);
      const int64_t before = trainer.stream().counters().flops;
      trainer.step(local);
      const StepNeeds plan = plan_step(c, data.vocab, sizes);
      const MemoryUse real = trainer.stream().allocator()->memory();
      expect_equal(plan.memory, real);
      const AllocatorStats held = trainer.stream().allocator()->stats();
      EXPECT_EQ(plan.allocator.held_peak_bytes, held.held_peak_bytes);
      EXPECT_EQ(plan.allocator.allocations, held.allocations);
      int64_t flops = 0;
      for (const int64_t f : plan.flops) flops += f;
      // Kernels also count elementwise work and the optimizer: about three tenths of the whole at these widths.
      const double launched = static_cast<double>(trainer.stream().counters().flops - before);
      EXPECT_GT(static_cast<double>(flops), 0.6 * launched);
      EXPECT_LT(static_cast<double>(flops), 0.8 * launched);
      EXPECT_EQ(plan.params, trainer.store().numel());
      EXPECT_EQ(plan.trainable, trainer.store().numel(true));
      // One gradient and two moments for every trainable parameter, and nothing of a step outlives it.
      EXPECT_EQ(of(real.live, MemoryKind::kOptimizer), 2 * of(real.live, MemoryKind::kGradients));
      for (MemoryKind k : {MemoryKind::kActivations, MemoryKind::kBatch, MemoryKind::kWorkspace})
        EXPECT_EQ(of(real.live, k), 0) << name_of(k);
      activations.push_back(of(real.peak, MemoryKind::kActivations));
    }
    EXPECT_GT(activations[0], activations[1]);
    EXPECT_GT(activations[1], activations[2]);
  }
}

// Where the vocabulary projection does not train, no gradient has a second place at any time.
TEST(step_plan, gradients_are_written_where_they_stay) {
  const auto c = TinyRun::get().config({"train.freeze.0=language.lm_head.weight", "model.language.lora_rank=0"});
  const StepShape shape = shape_of_limits(c, 1);
  const std::vector<MicrobatchSize> sizes(2, shape.kinds[0].size);
  const MemoryUse use = plan_step(c, 400, sizes).memory;
  EXPECT_EQ(of(use.peak, MemoryKind::kGradients), of(use.live, MemoryKind::kGradients));
}

TEST(step_plan, shapes_of_data_bound_every_microbatch_of_the_mixture) {
  const auto c = TinyRun::get().config();
  const TrainingData data = make_training_data(c);
  const StepShape shape = shape_of_data(c, data);
  ASSERT_EQ(shape.kinds.size(), 2u);
  EXPECT_EQ(shape.kinds[0].share, 0.5);
  const auto rows = [](const MicrobatchSize& s) {
    int64_t n = 0;
    for (const int64_t r : s.sequences) n += r;
    return n;
  };
  std::vector<int64_t> most(2);
  for (int64_t step = 0; step < 40; ++step) {
    for (const MicrobatchPlan& m : data.mixer->plan(step).microbatches) {
      const MicrobatchSize& bound = shape.kinds[static_cast<size_t>(m.dataset)].size;
      EXPECT_LE(m.counts.tokens, rows(bound));
      EXPECT_LE(m.counts.media, bound.media);
      EXPECT_LE(m.counts.regions, bound.regions);
      EXPECT_LE(m.counts.loss_tokens, bound.loss_rows);
      most[static_cast<size_t>(m.dataset)] = std::max(most[static_cast<size_t>(m.dataset)], m.counts.tokens);
    }
  }
  for (size_t d : {0, 1}) EXPECT_LE(rows(shape.kinds[d].size), most[d] * 5 / 4) << "not far above what comes";
}

TEST(step_plan, one_clip_among_pictures_is_found) {
  const std::string folder = TinyRun::get().folder() + "/mixed";
  DatasetWriter writer(folder, "mixed", "region", "a test");
  for (int64_t i = 0; i < 3; ++i) {
    RawSample s = make_world_sample({}, "train", "region", i);
    if (i == 2) {
      s.sample.mutable_media(0)->set_kind(data::Media::JPEG_FRAMES);
      for (auto& turn : *s.sample.mutable_turns())
        if (const size_t at = turn.text().find("<image>"); at != std::string::npos)
          turn.mutable_text()->replace(at, 7, "<video>");
    }
    writer.add(s.sample, s.media.view());
  }
  writer.finish();
  for (const int64_t frames : {2, 1}) {
    const auto c = TinyRun::get().config(
        {"data.sets.0.path=" + folder, cat("model.vision.frames=", frames), "train.samples_per_microbatch=1"});
    const auto tokenizer = make_tokenizer(c);
    for (const auto& set : c.data().sets())
      build_length_index(DatasetFolder(set.path()), *make_templates(c, *tokenizer), 1);
    const StepShape shape = shape_of_data(c, make_training_data(c));
    ASSERT_EQ(shape.kinds.size(), frames > 1 ? 3u : 2u);
    EXPECT_EQ(shape.kinds[shape.kinds.size() - 2].size.frames, frames);
    EXPECT_EQ(shape.kinds.front().size.frames, 1);
    EXPECT_EQ(shape.kinds.back().size.frames, 1);
  }
}

TEST(step_plan, clips_of_the_large_model_have_sixteen_frames) {
  const StepShape shape =
      shape_of_limits(TinyRun::get().config({"model.preset=videochat_tpo_7b", "model.connector.kind=qformer"}), 1);
  EXPECT_EQ(shape.kinds[0].size.frames, 16);
  EXPECT_NE(shape.source.find("clip(s) of 16 frames"), std::string::npos) << shape.source;
}

TEST(step_plan, limits_that_cannot_be_are_refused) {
  const auto c = TinyRun::get().config({"data.max_tokens=64", "model.vision.clip_frames=3"});
  EXPECT_EQ(shape_of_limits(c, 1).kinds[0].size.loss_rows, 2 * (64 - visual_slots(c, 3).of_whole));
  try {
    shape_of_limits(c, 100);
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("data.max_tokens = 64"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace tpo
