#include "parallel/sharding/gatherer.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace tpo {

ValueGatherer::ValueGatherer(std::vector<Bucket>& buckets, ProcessGroup& shard, int prefetch)
    : buckets_(buckets),
      comm_(shard.split_by([](int rank) { return std::pair(0, rank); }, "values")),
      prefetch_(prefetch),
      states_(buckets.size()) {
  for (size_t i = 0; i < buckets_.size(); ++i) {
    Bucket& b = buckets_[i];
    State& s = states_[i];
    s.held = true;
    s.used.assign(b.entries.size(), false);
    s.open.assign(b.entries.size(), false);
    for (size_t k = 0; k < b.entries.size(); ++k) s.entries[b.entries[k].param] = k;
    if (b.gathered()) gathered_.push_back(static_cast<int>(i));
  }
  std::reverse(gathered_.begin(), gathered_.end());  // of the order of reduction
}

void ValueGatherer::adopt(int i) {
  Bucket& b = buckets_[static_cast<size_t>(i)];
  bucket_of_[&b.value.storage()] = i;
  if (b.gathered()) free(i);
}

// ---- the sequence

void ValueGatherer::plan_round(int round, uint64_t groups) {
  Round r;
  r.begin = static_cast<int>(sequence_.size());
  const auto active = [&](const Bucket& b) { return ((groups >> b.group) & 1) != 0; };
  // Backward needs a weight if a gradient flows through it: something trains there or before. A block that is run again
  // also needs what lies in it before the first that trains.
  int64_t first_trained = std::numeric_limits<int64_t>::max();
  for (const Bucket& b : buckets_)
    if (b.trainable && active(b)) first_trained = std::min(first_trained, b.needed_from);
  std::vector<int> again;
  for (const int i : gathered_) {
    const Bucket& b = buckets_[static_cast<size_t>(i)];
    if (!active(b)) continue;
    sequence_.push_back({i, round, false});
    if (b.reshard && b.last_use >= first_trained) again.push_back(i);
  }
  std::stable_sort(again.begin(), again.end(), [&](int a, int b) {
    return buckets_[static_cast<size_t>(a)].last_use > buckets_[static_cast<size_t>(b)].last_use;
  });
  r.middle = static_cast<int>(sequence_.size());
  // What forward uses last is what backward needs first.
  if (!again.empty()) r.last = again.front();
  for (size_t k = 1; k < again.size(); ++k) sequence_.push_back({again[k], round, true});
  r.end = static_cast<int>(sequence_.size());
  rounds_.push_back(r);
}

void ValueGatherer::begin_step(const StepUse& use) {
  use_ = use;
  sequence_.clear();
  rounds_.clear();
  for (size_t j = 0; j < use.global.size(); ++j) plan_round(static_cast<int>(j), use.global[j]);
  next_ = 0, round_ = -1;
  for (State& s : states_) s.stats = {};
  phase_ = Phase::kIdle;
}

void ValueGatherer::enter_round(int round) {
  round_ = round;
  const Round& r = rounds_[static_cast<size_t>(round)];
  for (State& s : states_) s.forward = s.backward = -1;
  for (int k = r.begin; k < r.end; ++k) {
    const Gather& g = sequence_[static_cast<size_t>(k)];
    State& s = states_[static_cast<size_t>(g.bucket)];
    (g.backward ? s.backward : s.forward) = k;
  }
}

void ValueGatherer::begin_microbatch() {
  end_microbatches();  // what is left of the round before is needed here no more
  if (round_ >= 0) issue_until(rounds_[static_cast<size_t>(round_)].end - 1, rounds_[static_cast<size_t>(round_)].end);
  phase_ = Phase::kForward;
  enter_round(round_ + 1);
  const Round& r = rounds_[static_cast<size_t>(round_)];
  issue_until(r.begin - 1 + prefetch_, r.middle);
}

void ValueGatherer::end_forward() {
  check<CommError>(phase_ == Phase::kForward, "[end_forward] without begin_microbatch");
  const Round& r = rounds_[static_cast<size_t>(round_)];
  for (const int i : gathered_) {
    const State& s = states_[static_cast<size_t>(i)];
    const bool open = std::find(s.open.begin(), s.open.end(), true) != s.open.end();
    if (s.held && (!open || (buckets_[static_cast<size_t>(i)].reshard && i != r.last))) free(i);
  }
  phase_ = Phase::kBackward;
  issue_until(r.middle - 1 + prefetch_, r.end);
}

void ValueGatherer::issue_before(int round, int64_t from) {
  const Round& r = rounds_[static_cast<size_t>(round)];
  int end = r.middle;
  while (end < r.end && buckets_[static_cast<size_t>(sequence_[static_cast<size_t>(end)].bucket)].last_use >= from)
    ++end;
  issue_until(end - 1, end);
}

void ValueGatherer::end_microbatches() {
  reduces_next_ = nullptr;
  free_held();
  phase_ = Phase::kIdle;
}

void ValueGatherer::finish() {
  issue_until(static_cast<int>(sequence_.size()) - 1, static_cast<int>(sequence_.size()));
  while (!dropping_.empty()) drop_first();
}

void ValueGatherer::issue_until(int place, int limit) {
  for (const int end = std::min(place + 1, limit); next_ < end; ++next_) issue(sequence_[static_cast<size_t>(next_)]);
}

bool ValueGatherer::needed(const Gather& g) const {
  if (phase_ == Phase::kIdle || g.round != round_) return false;
  const Bucket& b = buckets_[static_cast<size_t>(g.bucket)];
  if (!((use_.local[static_cast<size_t>(round_)] >> b.group) & 1)) return false;
  const State& s = states_[static_cast<size_t>(g.bucket)];
  if (!g.backward) return phase_ == Phase::kForward;
  return phase_ == Phase::kBackward && std::find(s.open.begin(), s.open.end(), true) != s.open.end();
}

void ValueGatherer::issue(const Gather& g) {
  const Bucket& b = buckets_[static_cast<size_t>(g.bucket)];
  if (needed(g)) return hold(g.bucket);
  if (dropping_.size() > static_cast<size_t>(prefetch_)) drop_first();
  const MemoryScope memory(MemoryKind::kWeights);
  dropping_.push_back({g.bucket, start(b, Tensor::empty({b.numel}, b.value.dtype()))});
}

void ValueGatherer::drop_first() {
  Dropped first = std::move(dropping_.front());
  dropping_.pop_front();
  wait_for(first.work, first.bucket);
}

Work ValueGatherer::start(const Bucket& b, const Tensor& into) {
  GatherStats& s = states_[static_cast<size_t>(b.index)].stats;
  ++s.gathers;
  s.bytes += into.nbytes();
  if (!b.has_masters()) return comm_->all_gather(b.master, into, b.what);
  const Tensor part = into.rows(b.own.begin, b.own.end());
  if (b.gathered()) write_values(b, part);  // otherwise it was done by whoever changed them
  return comm_->all_gather(part, into, b.what);
}

void ValueGatherer::wait_for(Work& work, int bucket) {
  const double begin = steady_seconds();
  work.wait(Stream::current());
  if (work.times().done_s > 0) states_[static_cast<size_t>(bucket)].stats.exposed_s += steady_seconds() - begin;
  work = Work();
}

// ---- memory

void ValueGatherer::hold(int i) {
  Bucket& b = buckets_[static_cast<size_t>(i)];
  State& s = states_[static_cast<size_t>(i)];
  TPO_ASSERT(!s.held);
  b.value.storage().restore();
  s.held = true;
  s.work = start(b, b.value);
  s.arrived = false;
  b.value.storage().expect(*this);
}

void ValueGatherer::await(int i) {
  State& s = states_[static_cast<size_t>(i)];
  if (phase_ == Phase::kBackward && s.held && !s.arrived) before_backward_wait();
  wait_for(s.work, i);
  s.arrived = true;
  if (s.held) buckets_[static_cast<size_t>(i)].value.storage().arrived();
}

void ValueGatherer::free(int i) {
  State& s = states_[static_cast<size_t>(i)];
  await(i);
  buckets_[static_cast<size_t>(i)].value.storage().release(*this);
  s.held = false;
}

// A bucket goes two buckets later, and not before a kernel was launched since its use: an op asks for all its weights
// before it runs.
void ValueGatherer::free_passed(int used) {
  const int64_t launches = Stream::current().counters().launches;
  const int place = states_[static_cast<size_t>(used)].forward;
  for (const int i : gathered_) {
    const State& s = states_[static_cast<size_t>(i)];
    if (!s.held || s.forward < 0 || s.forward + 2 > place || s.last_launch >= launches) continue;
    if (!buckets_[static_cast<size_t>(i)].reshard || i == rounds_[static_cast<size_t>(round_)].last) continue;
    if (std::find(s.used.begin(), s.used.end(), false) == s.used.end()) free(i);
  }
}

void ValueGatherer::free_held() {
  for (const int i : gathered_) {
    State& s = states_[static_cast<size_t>(i)];
    if (s.held) free(i);
    s.used.assign(s.used.size(), false);
    s.open.assign(s.open.size(), false);
  }
}

// ---- uses

void ValueGatherer::use(const Param& param, int i) {
  State& s = states_[static_cast<size_t>(i)];
  const Bucket& b = buckets_[static_cast<size_t>(i)];
  if (!b.gathered() || phase_ == Phase::kFull) return await(i);
  check<CommError>(phase_ != Phase::kIdle, "parameter '", param.name,
                   "' is sharded and used outside of a microbatch; gather it first (ParamSync::with_full_values)");
  if (phase_ == Phase::kForward) {
    const bool released = !s.held && s.forward >= 0 && s.forward < next_;
    check<CommError>(s.forward >= 0 && !released, "parameter '", param.name, "' of ", b.what,
                     released ? " is used again in a forward pass after its bucket was freed, or by a microbatch that "
                                "the plan says does not use it; shard it with reshard_after_forward: false"
                              : " is used by a microbatch of a round in which the plan has no rank use it");
    free_passed(i);
    const size_t entry = s.entries.at(&param);
    s.used[entry] = true;
    // Without a tape a frozen weight has nothing that will sweep it.
    if (param.trainable || Tape::current() != nullptr) s.open[entry] = true;
    s.last_launch = Stream::current().counters().launches;
  }
  need(i);
}

void ValueGatherer::need(int i) {
  State& s = states_[static_cast<size_t>(i)];
  const bool waits = !s.held || !s.arrived;
  if (!s.held && phase_ == Phase::kBackward) before_backward_wait();
  if (!s.held) {
    check<CommError>(phase_ != Phase::kIdle, "the values of ", buckets_[static_cast<size_t>(i)].what,
                     " are sharded and read outside of a microbatch; gather them first (ParamSync::with_full_values)");
    const bool forward = phase_ == Phase::kForward;
    const int place = forward ? s.forward : s.backward;
    check<CommError>((forward || phase_ == Phase::kBackward) && place >= next_, "the values of ",
                     buckets_[static_cast<size_t>(i)].what,
                     " are read when they are not gathered and no gather of them is due; name the order in which the "
                     "model uses its parameters in BucketOptions::forward_order, or shard these with "
                     "reshard_after_forward: false");
    const Round& r = rounds_[static_cast<size_t>(round_)];
    issue_until(place + prefetch_, forward ? r.middle : r.end);
    TPO_ASSERT(s.held);
  }
  if (waits && phase_ == Phase::kBackward) check_order(buckets_[static_cast<size_t>(i)]);
  await(i);
}

void ValueGatherer::check_order(const Bucket& b) const {
  if (comm_->size() == 1 || reduces_next_ == nullptr) return;
  check<CommError>(b.last_use >= reduces_next_->needed_from, "backward reads ", b.what, " before the gradients of ",
                   reduces_next_->what,
                   " are complete, but by the order of use it comes after them; either this microbatch does not use "
                   "those parameters, which the plan says it does, or the order in which the model uses its parameters "
                   "is to be named in BucketOptions::forward_order");
}

void ValueGatherer::swept(const Param& param, int i) {
  State& s = states_[static_cast<size_t>(i)];
  if (!buckets_[static_cast<size_t>(i)].gathered()) return;
  s.open[s.entries.at(&param)] = false;
  const bool open = std::find(s.open.begin(), s.open.end(), true) != s.open.end();
  if (!open && s.held && phase_ == Phase::kBackward) free(i);
}

void ValueGatherer::fetch(Storage& storage) {
  const int i = bucket_of_.at(&storage);
  buckets_[static_cast<size_t>(i)].gathered() ? need(i) : await(i);
}

// ---- whole values

void ValueGatherer::spread(Bucket& b) {
  State& s = states_[static_cast<size_t>(b.index)];
  s.work = start(b, b.value);
  s.arrived = false;
  b.value.storage().expect(*this);
}

void ValueGatherer::settle() {
  for (size_t i = states_.size(); i-- > 0;) await(static_cast<int>(i));  // in the order in which they were issued
}

void ValueGatherer::gather_all() {
  check<CommError>(phase_ == Phase::kIdle, "[with_full_values] inside of itself or of a microbatch");
  settle();
  for (const int i : gathered_) hold(i);
  settle();
  phase_ = Phase::kFull;
}

void ValueGatherer::release_all() {
  for (const int i : gathered_) free(i);
  phase_ = Phase::kIdle;
}

}  // namespace tpo
