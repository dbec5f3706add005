#pragma once
// A training step with its compute replaced by sleeps: what a rank's microbatch does to its parameters is recorded
// once, use by use and gradient by gradient with the compute time between them, and then played to the trainer's own
// ParamSync. Communication runs as in training, beside a processor that is as idle as a GPU leaves it.
#include <string>
#include <vector>

#include "launcher/trainer.h"

namespace tpo {

struct ReplayEvent {
  enum class Kind { kUse, kGradReady, kSwept } kind = Kind::kUse;
  Param* param = nullptr;
  double compute_s = 0;  // since the event before, or the begin of the microbatch
};

struct ReplayMicrobatch {
  std::vector<ReplayEvent> events;
  size_t backward = 0;  // the first event of backward
  uint64_t groups = 0;  // parameter groups that it touches
  double compute_s() const;
};

// Runs forward and backward of one microbatch of this size on every rank, `runs` times without communication; times are
// the medians of rank 0, on all ranks. Takes the trainer between steps and leaves it so. Collective.
ReplayMicrobatch record_microbatch(Trainer& trainer, const MicrobatchSize& size, ProcessGroup& world, int runs = 3);

// Plays steps of so many microbatches a rank to trainer.sync(). Weights keep their values; moments do not.
class OverlapReplay {
 public:
  // Requires: a trainer without a tensor axis, whose collectives lie in the layers. Throws ConfigError.
  OverlapReplay(Trainer& trainer, ReplayMicrobatch microbatch, int microbatches, ProcessGroup& world);
  // One step, update included; of every second one the gradients once more with communication stubbed out (StubPair).
  // Collective.
  void step();
  OverlapReport report() { return gather_overlap(std::exchange(meter_, {}), world_); }

 private:
  void run_gradients();
  void compute(double seconds);

  BucketSync& sync_;
  ReplayMicrobatch microbatch_;
  int microbatches_;
  ProcessGroup& world_;
  OverlapMeter meter_;
  bool pair_next_ = false;
  // Compute that was not slept yet: sleeps below a tenth of a millisecond are not kept by the system.
  double debt_s_ = 0;
};

}  // namespace tpo
