#pragma once
// BucketSync: parameters, gradients and optimizer state along the data axis, bucket by bucket, each with its own
// policy:
//   kReplicated   every rank holds everything; gradients are all-reduced
//   kOptimizer    gradients are reduce-scattered, each rank updates its part, values are gathered while the next step
//                 already begins
//   kGradients    the same, and between microbatches a rank holds the gradients of its part only: every round is
//                 reduced
//   kParameters   the same, and values are gathered where they are used (gatherer.h); frozen ones too
// Reductions run while backward still does, in a fixed order. A data axis of one rank takes the same path.
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "parallel/comm/process_group.h"
#include "parallel/sharding/bucket.h"
#include "parallel/sharding/gatherer.h"
#include "parallel/sharding/param_sync.h"

namespace tpo {

class Mesh;

// The ranks that parameters are shared with: data = shard x replica; tensor is needed for norms, and for buckets that
// are the same on all its ranks.
struct SyncGroups {
  ProcessGroup *data, *shard;       // shard: the ranks of one copy
  ProcessGroup* replica = nullptr;  // of the same part of other copies; null: none
  ProcessGroup* tensor = nullptr;   // null: none
  // One copy over all ranks.
  SyncGroups(ProcessGroup& all) : data(&all), shard(&all) {}  // NOLINT(google-explicit-constructor): the usual case
  SyncGroups(ProcessGroup& of_data, ProcessGroup& of_shard, ProcessGroup& of_replica, ProcessGroup& of_tensor)
      : data(&of_data), shard(&of_shard), replica(&of_replica), tensor(&of_tensor) {}
  SyncGroups(const Mesh& mesh);  // NOLINT(google-explicit-constructor)
};

class BucketSync final : public ParamSync {
 public:
  using Options = BucketOptions;
  // Collective over the groups: moves parameters into buckets, hooks itself into the store and makes ProcessGroups of
  // its own, so that buckets never meet the caller's collectives. Throws CommError if the ranks built different
  // buckets. The store must outlive this object, and so must data and tensor.
  BucketSync(ParamStore& store, const SyncGroups& groups, const Options& options = {});
  // Gives the store its default hooks back; Param::grad becomes undefined. Without release() before, so do values of
  // kParameters, and reading a value that still came from other ranks is a CommError.
  ~BucketSync() override;

  void before_use(Param& param) override;
  void before_grad(Param& param) override;
  void on_grad_ready(Param& param) override;
  void on_swept(Param& param) override;
  bool follows_uses(const Param& param) const override;

  void begin_step(const StepUse& use) override;
  void begin_microbatch() override;
  void end_forward() override;
  void finish_grads(Stream& stream) override;
  double grad_norm() override;
  double clip(double max_norm) override;
  void step(const AdamWParams& params) override;
  void discard_grads() override;
  void with_full_values(const std::function<void()>& fn) override;
  void release() override;
  void for_each_state(const std::function<void(const StateEntry&)>& fn) override;
  void state_loaded() override;
  std::map<std::string, int64_t> group_steps() const override;
  void set_group_steps(const std::map<std::string, int64_t>& steps) override;
  CommStats stats() const override;

  const std::vector<Bucket>& buckets() const { return buckets_; }

 private:
  struct ParamState {
    int bucket = -1;  // -1: none, frozen and whole
    int entry = 0;
    int fired = 0;  // contributions in this step
  };
  struct BucketState {
    int pending = 0;  // parameters whose contributions are not all in: to the step, or to the round of this microbatch
    int due = 0;      // microbatches begun that touch the group: contributions that a parameter may have by now
    int reduced = 0;  // rounds launched in this step
    Work work;        // of an all-reduce or a reduce-scatter; not of rounds
    Work copies;      // of the sum over copies
    BucketStats stats;
  };
  // A round's reduce-scatter in flight.
  struct RoundWork {
    int bucket, round;
    Work work;
    Tensor part;  // this rank's; undefined: straight into master_grad
  };
  // Asked for whole gradients that are not there. Those of rounds are while they are written and reduced, those of
  // kOptimizer from begin_step to finish_grads.
  static StorageSource& grad_source();
  enum class Phase { kIdle, kGrads, kReduced, kReleased };

  bool active(const Bucket& b) const { return b.trainable && ((global_groups_ >> b.group) & 1); }
  int expected(int group) const { return use_.local_microbatches(group); }
  bool touches(size_t round, const Bucket& b) const;
  std::string names_of(uint64_t groups) const;
  ParamState& state_of(const Param& p);
  void check_same_buckets() const;
  void check_attached(const char* call) const;
  void leave_store();
  void check_fired(const Bucket& b) const;
  void end_microbatch();
  void launch_ready();
  void launch_rounds();
  bool round_complete(const Bucket& b) const;
  void zero_unwritten(const Bucket& b);
  void launch_step(Bucket& b, BucketState& s);
  void launch_round(Bucket& b, BucketState& s);
  void retire_round();
  void order_copies();
  bool copy_summed(const Bucket& b) const;
  void publish(Bucket& b);
  void launch_copies(bool all);
  void wait_for(const Bucket& b, Work& work, int64_t bytes, Stream& stream);
  double sum_squares() const;
  void report_non_finite() const;

  ParamStore& store_;
  SyncGroups groups_;
  // Of kReplicated; kOptimizer; rounds; sums over copies.
  std::unique_ptr<ProcessGroup> data_, shard_, rounds_, replica_;
  std::vector<Bucket> buckets_;
  std::vector<BucketState> bucket_states_;
  std::unordered_map<const Param*, ParamState> params_;
  std::unique_ptr<ValueGatherer> values_;
  std::vector<int64_t> group_steps_;
  StepUse use_;
  uint64_t global_groups_ = 0;
  size_t microbatches_ = 0;  // begun in this step
  size_t next_ = 0;          // first bucket not yet launched or skipped
  size_t round_ = 0, next_in_round_ = 0;
  bool finishing_ = false;
  std::deque<RoundWork> round_works_;
  std::vector<int> copies_;  // buckets that are summed over copies in this step, in order
  size_t next_copy_ = 0;     // first of these not yet launched
  double grad_scale_ = 1;    // set by clip, used by step
  Phase phase_ = Phase::kIdle;
};

}  // namespace tpo
