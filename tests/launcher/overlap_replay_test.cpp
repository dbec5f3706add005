#include "launcher/overlap_replay.h"

#include <gtest/gtest.h>

#include <map>
#include <tuple>

#include "launcher/step_plan.h"
#include "parallel/comm/threads.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

// Operations and bytes of the buckets' groups, by group, operation and name.
using Seen = std::map<std::tuple<std::string, CommOp, std::string>, std::pair<int64_t, int64_t>>;
Seen seen(ProcessGroup& world) {
  Seen out;
  for (const CommUse& u : world.log().take())
    if (u.what.starts_with("bucket")) out[{u.group, u.op, u.what}] = {u.operations, u.bytes};
  return out;
}

MicrobatchSize tiny_size(const TpoModel& model) {
  MicrobatchSize size;
  size.media = size.regions = size.box_inputs = 1;
  size.frames = model.config().vision.clip_frames;
  size.sequences = {model.visual_slots_per_media(size.frames) + 2, 5};
  size.loss_rows = 4;
  return size;
}

HostArray distinct_rows(const Shape& shape) {
  std::vector<int32_t> rows;
  while (static_cast<int64_t>(rows.size()) < shape.numel()) rows.push_back(static_cast<int32_t>(rows.size()));
  return HostArray::from(rows, shape);
}

TEST(overlap_replay, communicates_as_the_trainer_does_and_keeps_the_weights) {
  const struct {
    int ranks, microbatches;
    std::vector<std::string> layout;
  } cases[] = {
      {1, 1, {}},
      {2, 1, {}},
      {2, 2, {"layout.bucket_bytes=8192"}},
      {2, 2, {"layout.zero=1"}},
      {2, 2, {"layout.zero=2", "layout.bucket_bytes=8192"}},
      {2, 2, {"layout.zero=3", "layout.bucket_bytes=8192"}},
      {2, 1, {"layout.zero=3", "layout.bucket_bytes=8192", "train.freeze.0=language.layers.*", "train.train.0=*lora*"}},
      {2, 1, {"layout.zero=3", "layout.bucket_bytes=8192", "model.recompute=full"}},
      {4, 1, {"layout.zero=3", "layout.shard_ranks=2"}},
  };
  for (const auto& c : cases) {
    const auto config = TinyRun::get().config(c.layout);
    const TrainingData data = make_training_data(config);
    run_ranks(c.ranks, [&](ProcessGroup& world) {
      Trainer t(config, data, world);
      const MicrobatchSize size = tiny_size(t.model());
      const uint64_t before = t.parameter_hash();
      const ReplayMicrobatch mb = record_microbatch(t, size, world, 1);
      ASSERT_GT(mb.backward, 0u);
      ASSERT_LT(mb.backward, mb.events.size());
      EXPECT_GT(mb.compute_s(), 0);
      LocalStep local =
          make_local_step(std::vector<MicrobatchSize>(static_cast<size_t>(c.microbatches), size), t.model(), c.ranks);
      for (HostBatch& batch : local.batches)
        batch.arrays["visual_rows"] = distinct_rows(batch.arrays["visual_rows"].shape);
      world.log().take();
      t.run_again(local);
      const Seen trained = seen(world);
      OverlapReplay replay(t, mb, c.microbatches, world);
      replay.step();
      const OverlapReport report = replay.report();
      replay.step();
      EXPECT_EQ(replay.report().pairs, world.rank() == 0 ? 1 : 0) << "of every second step";
      EXPECT_EQ(t.parameter_hash(), before);
      EXPECT_EQ(trained.empty(), c.ranks == 1);
      if (world.rank() != 0) return;
      EXPECT_EQ(report.steps, 1);
      EXPECT_EQ(report.pairs, 0);
      Seen replayed;
      for (const CommUse& u : report.uses)
        if (u.what.starts_with("bucket")) replayed[{u.group, u.op, u.what}] = {u.operations, u.bytes};
      for (const auto& [name, sums] : trained) {
        ASSERT_TRUE(replayed.contains(name)) << std::get<0>(name) << ' ' << std::get<2>(name);
        EXPECT_EQ(replayed[name], sums) << std::get<0>(name) << ' ' << std::get<2>(name);
      }
      // What an update sends around comes on top.
      for (const auto& [name, sums] : replayed)
        EXPECT_TRUE(trained.contains(name) || std::get<1>(name) == CommOp::kAllGather) << std::get<2>(name);
    });
  }
}

TEST(overlap_replay, refuses_a_tensor_axis) {
  const auto config = TinyRun::get().config({"layout.tensor=2"});
  const TrainingData data = make_training_data(config);
  run_ranks(2, [&](ProcessGroup& world) {
    Trainer t(config, data, world);
    EXPECT_THROW(OverlapReplay(t, {}, 1, world), ConfigError);
  });
}

}  // namespace
}  // namespace tpo
