// The tensor axis together with the data axis, in the trainer: no plan of a step makes ranks wait in a circle, and what
// is whole on the axis has the same bits on all its ranks.
#include <gtest/gtest.h>

#include "launcher/step_plan.h"
#include "launcher/trainer.h"
#include "parallel/comm/sim.h"
#include "parallel/comm/threads.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

// Sizes that two, three and four ranks cut unevenly.
config::RunConfig uneven(std::vector<std::string> sets, const std::vector<std::string>& more = {}) {
  for (const char* set : {"model.vision.heads=4", "model.vision.mlp_hidden=61", "model.language.mlp_hidden=67"})
    sets.push_back(set);
  sets.insert(sets.end(), more.begin(), more.end());
  return TinyRun::get().config(sets);
}

struct Drawn {
  int data, tensor;
  std::vector<std::string> sets;
};

// Nothing is gathered ahead, so that a rank waits as early as it can; some microbatches have no picture or no box, so
// that ranks of the data axis use different buckets.
Drawn draw(uint64_t seed) {
  const auto pick = [&](const char* what, const std::vector<int>& from) {
    return from[static_cast<size_t>(uniform_below(RngKey(9).with(what).with(seed), 0, from.size()))];
  };
  Drawn d{pick("d", {2, 2, 3}), pick("t", {2, 3, 4}), {}};
  const auto bytes = static_cast<int64_t>(uniform_below(RngKey(3).with(seed), 0, 200)) * 256 + 4096;
  d.sets = {"layout.zero=3",
            "layout.prefetch_buckets=0",
            "train.samples_per_microbatch=1",
            cat("layout.tensor=", d.tensor),
            cat("layout.bucket_bytes=", bytes),
            cat("layout.sequence_parallel=", pick("sp", {0, 1}) ? "true" : "false"),
            cat("train.microbatches_per_step=", pick("m", {2, 3, 4, 5, 7})),
            cat("run.seed=", seed)};
  const int frozen = pick("f", {0, 1, 2});
  if (frozen == 1) d.sets.insert(d.sets.end(), {"train.freeze.0=language.*", "train.train.0=*.lora_?"});
  if (frozen == 2) d.sets.push_back("train.freeze.0=vision.*");
  return d;
}

TEST(tensor_axis, uneven_parts_under_zero_3_never_wait_in_a_circle) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const Drawn drawn = draw(seed);
    SCOPED_TRACE(cat("seed ", seed, ", ", drawn.data, " x ", drawn.tensor));
    const auto c = uneven(drawn.sets);
    const TrainingData data = make_training_data(c);
    EXPECT_NO_THROW(run_ranks(drawn.data * drawn.tensor, [&](ProcessGroup& world) {
      Trainer trainer(c, data, world);
      for (int step = 0; step < 3; ++step) trainer.step();
    }));
  }
}

// By name: which weight the activations come from or go to. An error or the guard then says where in the model it is.
TEST(tensor_axis, every_collective_of_a_step_names_a_tensor) {
  for (const char* sequence : {"false", "true"}) {
    auto c = uneven({"layout.tensor=2", "layout.zero=3", cat("layout.sequence_parallel=", sequence), "run.device=meta",
                     "layout.data=1"});
    const auto issued = std::make_shared<IssuedOps>();
    const auto world = make_simulated(1, 2, issued);
    TrainingData data;
    data.vocab = 400;
    Trainer trainer(c, data, *world);
    const LocalStep local = make_local_step(std::vector{shape_of_limits(c, 1).kinds[0].size}, trainer.model());
    issued->list(true);
    trainer.step(local);
    int activations = 0;
    for (const std::string& line : issued->lines()) {
      if (line.find("in group world.tensor,") == std::string::npos || line.find("'gradient norm'") != std::string::npos)
        continue;
      const size_t begin = line.find('\'') + 1;
      const std::string what = line.substr(begin, line.find('\'', begin) - begin);
      const size_t colon = what.find(": ");
      activations += colon != std::string::npos;
      EXPECT_NE(trainer.store().find(what.substr(0, colon)), nullptr) << line;
    }
    // Each of a vision block and two layers has two branches, with one collective at either end each way.
    EXPECT_GE(activations, 12);
  }
}

}  // namespace
}  // namespace tpo
