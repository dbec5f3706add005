#pragma once
// ParamSync: where parameters, gradients and optimizer state live along the data axis, and who reduces what and when.
// A training step is
//   begin_step(use);  for each local microbatch: begin_microbatch(), forward, end_forward(), backward;
//   finish_grads(stream);
//   clip(max_norm) or grad_norm();  step(adamw) or discard_grads();
// Rules for parameter groups (parallel/ORDER.md):
//   touched by nobody:        no communication, no decay, no momentum; values, moments and step count keep their bits
//   touched by others only:   this rank contributes zeros
//   touched here:             every trainable parameter must fire once per local microbatch that touches the group
// Gradients are plain sums over microbatches and ranks; the loss carries the global normaliser.
// Thread rule: one rank thread uses a ParamSync.
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/batch.h"
#include "core/optim/adamw.h"
#include "core/param.h"

namespace tpo {

// A NaN or an infinity in a reduced gradient; the message names the first parameter that has one. Thrown on every
// rank alike, before any value changed.
struct NonFiniteGradient : Error {
  using Error::Error;
};

struct BucketStats {
  std::string what;
  int group = 0;
  // Handed to reductions in this step: the whole bucket for each, this rank's part for a sum over copies; 0 if skipped.
  int64_t bytes = 0;
  int64_t reductions = 0;  // one a step, or one a round; and one over copies
  double in_flight_s = 0;  // of reductions, from hand-over to completion, the wait for slower ranks included
  double transfer_s = 0;   // from the moment every rank had arrived
  double exposed_s = 0;    // this rank's thread was blocked for them
  int64_t gathers = 0, gather_bytes = 0;  // of values, the whole bucket for each; those after step() included
  double gather_exposed_s = 0;
  // Of the last reduction, on the clock of steady_seconds: this rank's last gradient was there; then as in WorkTimes.
  double complete_s = 0, issued_s = 0, begun_s = 0, done_s = 0;
};

// Of the latest step, after finish_grads.
struct CommStats {
  std::vector<BucketStats> buckets;  // in the order of reduction
  int64_t bytes = 0, gather_bytes = 0;
  double in_flight_s = 0, transfer_s = 0, exposed_s = 0;  // exposed: gathers included
  double hidden_s() const { return in_flight_s > exposed_s ? in_flight_s - exposed_s : 0; }
};

// What this rank holds of one logical tensor of the training state: elements [begin, begin + value.numel()) of a
// rectangle of the full tensor, a parameter's from its master if it has one. `value` is a view: writing to it and then
// state_loaded() loads it. A parameter in several rectangles, or in several shards, gives several entries; a rank that
// holds nothing of a tensor gives one of 0 elements.
struct StateEntry {
  std::string name;  // "<param>", "optim.m.<param>", "optim.v.<param>"
  Tensor value;
  const Param* param;
  Rect rect;
  int64_t begin = 0;
  bool owner = true;  // of the ranks that hold these elements, the one that counts them
};

class ParamSync : public ParamHooks {
 public:
  // Throws CommError if use does not fit: a group that the store does not have, fewer global than local rounds, or a
  // local group that is not global in that round.
  virtual void begin_step(const StepUse& use) = 0;
  // Before the forward of each local microbatch. Throws CommError if the plan has no further one for this rank.
  virtual void begin_microbatch() = 0;
  // Between forward and backward of a microbatch, when no op is half done.
  virtual void end_forward() = 0;
  // Launches what is left, checks that every expected gradient arrived (CommError naming the parameter) and makes
  // `stream` see all sums. Param::grad is then the sum if its bucket is replicated; otherwise reading it is a
  // CommError, since this rank keeps a part.
  virtual void finish_grads(Stream& stream) = 0;
  // Euclidean norm of the summed gradient over the groups of this step, the same bits on every rank.
  // Throws NonFiniteGradient. Requires: finish_grads.
  virtual double grad_norm() = 0;
  // grad_norm(), and scales the gradients of the coming step() by min(1, max_norm / norm). max_norm <= 0: no clipping.
  virtual double clip(double max_norm) = 0;
  // AdamW on the groups of this step; params.lr is multiplied by each bucket's scale; a group's step count starts at 1
  // and counts the steps that touched it. Requires: finish_grads.
  virtual void step(const AdamWParams& params) = 0;

  // Instead of step(): the gradients are thrown away, nothing changes. Requires: finish_grads.
  virtual void discard_grads() = 0;

  // Runs fn while every rank holds all values of its part of the model (evaluation, export). Collective over the data
  // axis; not between begin_step and finish_grads. Outside of it and of microbatches sharded values cannot be read.
  virtual void with_full_values(const std::function<void()>& fn) = 0;

  // Ends the use of this ParamSync: every value is whole on every rank and stays with the store, which has its default
  // hooks again, so that another ParamSync can be built, for instance after thawing parameters. What remains is
  // for_each_state and group_steps, for moments and masters to take along. Collective over the data axis; not between
  // begin_step and finish_grads.
  virtual void release() = 0;

  // Every tensor that a checkpoint holds, frozen parameters included, in creation order. Local; no communication.
  virtual void for_each_state(const std::function<void(const StateEntry&)>& fn) = 0;
  // Tensors that for_each_state gave were written: values that are rounded from masters follow. Collective over the
  // data axis; not between begin_step and finish_grads.
  virtual void state_loaded() = 0;
  // Steps done per parameter group name: the other half of the state.
  virtual std::map<std::string, int64_t> group_steps() const = 0;
  // Throws ConfigError for a group that the store does not have.
  virtual void set_group_steps(const std::map<std::string, int64_t>& steps) = 0;

  virtual CommStats stats() const = 0;
};

}  // namespace tpo
