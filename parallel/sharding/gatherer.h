#pragma once
// ValueGatherer: brings the values of sharded buckets to where they are used and frees them afterwards.
// The gathers of a step are a fixed sequence, known before it begins (parallel/ORDER.md): for each round the buckets of
// its groups in the order of first use in forward, then, for those that are freed after forward, in the order in which
// backward needs them. Every rank issues all of them, also those of microbatches that it does not have; what a rank
// does not need it drops. A use of a bucket issues all that come before it and `prefetch` more. Memory is taken when a
// gather is issued and given back at points of the program: in forward when a bucket two further on is used, in
// backward when the sweep has passed every use, otherwise at the end of the microbatch.
#include <deque>
#include <functional>
#include <unordered_map>
#include <vector>

#include "core/batch.h"
#include "parallel/sharding/bucket.h"

namespace tpo {

struct GatherStats {
  int64_t gathers = 0, bytes = 0;  // issued: of whole buckets
  double exposed_s = 0;            // this rank's thread was blocked for them
};

class ValueGatherer final : public StorageSource {
 public:
  // Collective over shard. buckets outlive this object and do not move; each is to be adopted before the first step.
  ValueGatherer(std::vector<Bucket>& buckets, ProcessGroup& shard, int prefetch);
  // The bucket is materialised: releases its value if it is a gathered one.
  void adopt(int bucket);

  void begin_step(const StepUse& use);
  void begin_microbatch();
  void end_forward();
  // Issues what other ranks need before they can reduce, in this round, a bucket with needed_from `from`.
  // To be called before a wait for that reduction, or two ranks may wait for each other.
  void issue_before(int round, int64_t from);
  // The bucket of the present round that this rank reduces next, for which others may wait: of backward's gathers these
  // have issued those that it needs. Null: none.
  void reduces_next(const Bucket* bucket) { reduces_next_ = bucket; }
  // Called before a wait for a gather of backward. May call issue_before and reduces_next.
  std::function<void()> before_backward_wait = [] {};
  // After the last microbatch of this rank: nothing is needed here any more.
  void end_microbatches();
  // Issues what is left of the sequence and waits for all of it.
  void finish();

  // Makes the value of param, which is in buckets[bucket], readable. Throws CommError naming the parameter if that
  // would need a gather which the sequence does not have, or one which backward reaches earlier than the order of use
  // says, so that ranks might wait for each other.
  void use(const Param& param, int bucket);
  // The sweep of a tape has passed all uses of param.
  void swept(const Param& param, int bucket);

  // Before this rank's part of a bucket changes: waits for a spread that still reads it.
  void use_own(const Bucket& bucket) { await(bucket.index); }
  // After the optimizer changed this rank's part of a bucket that is held whole: others' parts follow, in the
  // background until the bucket is used or its bytes are asked for.
  void spread(Bucket& bucket);
  bool full() const { return phase_ == Phase::kFull; }  // between gather_all and release_all
  // Waits for every spread in flight.
  void settle();

  // Between steps: gathers all / frees all. Collective over shard.
  void gather_all();
  void release_all();

  void fetch(Storage& storage) override;
  // Since begin_step.
  const GatherStats& stats(int bucket) const { return states_[static_cast<size_t>(bucket)].stats; }

 private:
  struct Gather {
    int bucket;
    int round;
    bool backward;
  };
  struct State {
    Work work;                        // in flight: of a gather, or of a spread
    bool held = false;                // memory is there
    bool arrived = false;             // the gather was waited for
    std::vector<bool> used;           // by entry: in this microbatch
    std::vector<bool> open;           // by entry: used, and the sweep has not passed it
    int64_t last_launch = 0;          // kernels launched when it was used last
    int forward = -1, backward = -1;  // places in the sequence of the present round; -1: none
    std::unordered_map<const Param*, size_t> entries;
    GatherStats stats;
  };
  struct Round {
    int begin = 0, middle = 0, end = 0;  // forward [begin, middle), backward [middle, end)
    bool last_stays = false;
    int last = -1;  // bucket that is not freed between forward and backward
  };
  enum class Phase { kIdle, kForward, kBackward, kFull };

  void plan_round(int round, uint64_t groups);
  void enter_round(int round);
  void issue_until(int place, int limit);
  void issue(const Gather& gather);
  bool needed(const Gather& gather) const;
  Work start(const Bucket& bucket, const Tensor& into);
  void wait_for(Work& work, int bucket);
  void drop_first();
  void check_order(const Bucket& bucket) const;
  void hold(int bucket);
  void await(int bucket);
  void free(int bucket);
  void free_passed(int bucket);
  void free_held();
  void need(int bucket);

  std::vector<Bucket>& buckets_;
  std::unique_ptr<ProcessGroup> comm_;
  int prefetch_;
  std::vector<State> states_;
  std::unordered_map<const Storage*, int> bucket_of_;
  std::vector<int> gathered_;  // buckets, in the order of first use
  StepUse use_;
  std::vector<Gather> sequence_;
  std::vector<Round> rounds_;
  int next_ = 0;    // place in the sequence
  int round_ = -1;  // of the present microbatch
  const Bucket* reduces_next_ = nullptr;
  Phase phase_ = Phase::kIdle;
  struct Dropped {
    int bucket;
    Work work;
  };
  std::deque<Dropped> dropping_;
};

}  // namespace tpo
