#pragma once
// ReplicatedSync: every rank of the data axis holds all parameters, gradients and moments; gradients are all-reduced
// bucket by bucket, in a fixed order, while backward still runs. A data axis of one rank takes the same path.
#include <memory>
#include <unordered_map>
#include <vector>

#include "parallel/comm/process_group.h"
#include "parallel/sharding/bucket.h"
#include "parallel/sharding/param_sync.h"

namespace tpo {

class ReplicatedSync final : public ParamSync {
 public:
  using Options = BucketOptions;
  // Collective over `data`: moves the trainable parameters into buckets, hooks itself into the store and makes a
  // ProcessGroup of its own, so that buckets never meet the caller's collectives. Throws CommError if the ranks built
  // different buckets. The store must outlive this object; data need not.
  ReplicatedSync(ParamStore& store, ProcessGroup& data, Options options = {});
  // Gives the store its default hooks back. Values stay valid; Param::grad becomes undefined.
  ~ReplicatedSync() override;

  void on_grad_ready(Param& param) override;
  void begin_step(const StepUse& use) override;
  void begin_microbatch() override;
  void finish_grads(Stream& stream) override;
  double grad_norm() override;
  double clip(double max_norm) override;
  void step(const AdamWParams& params) override;
  void for_each_state(const std::function<void(const StateEntry&)>& fn) override;
  std::map<std::string, int64_t> group_steps() const override;
  void set_group_steps(const std::map<std::string, int64_t>& steps) override;
  CommStats stats() const override;

  const std::vector<Bucket>& buckets() const { return buckets_; }

 private:
  struct ParamState {
    int bucket = -1;  // -1: frozen
    int entry = 0;
    int fired = 0;  // contributions in this step
  };
  struct BucketState {
    int pending = 0;  // parameters whose contributions are not all in
    Work work;
    BucketStats stats;
  };
  enum class Phase { kIdle, kGrads, kReduced };

  bool active(const Bucket& b) const { return (global_groups_ >> b.group) & 1; }
  int expected(int group) const { return use_.local_microbatches(group); }
  std::string names_of(uint64_t groups) const;
  ParamState& state_of(const Param& p);
  void launch_ready();
  void launch(Bucket& b, BucketState& s);
  void check_complete() const;
  void report_non_finite() const;

  ParamStore& store_;
  std::unique_ptr<ProcessGroup> comm_;
  std::vector<Bucket> buckets_;
  std::vector<BucketState> bucket_states_;
  std::unordered_map<const Param*, ParamState> params_;
  std::vector<int64_t> group_steps_;
  StepUse use_;
  uint64_t global_groups_ = 0;
  size_t microbatches_ = 0;  // begun in this step
  size_t next_ = 0;          // first bucket not yet launched or skipped
  double grad_scale_ = 1;    // set by clip, used by step
  Phase phase_ = Phase::kIdle;
};

}  // namespace tpo
