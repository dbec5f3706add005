// The order in which BucketSync reduces gradients, and when.
#include <algorithm>

#include "core/error.h"
#include "core/kernels/cast.h"
#include "core/launch.h"
#include "core/profile.h"
#include "parallel/sharding/bucket_sync.h"

namespace tpo {

// Fixed orders: a bucket goes when it is complete and all before it have gone. Buckets that are reduced once a step and
// those of rounds have an order and ProcessGroups each.
void BucketSync::launch_ready() {
  for (; next_ < buckets_.size(); ++next_) {
    Bucket& b = buckets_[next_];
    if (!active(b) || b.in_rounds()) continue;
    if (bucket_states_[next_].pending > 0) break;
    launch_step(b, bucket_states_[next_]);
  }
  launch_rounds();
  launch_copies(false);
}

bool BucketSync::round_complete(const Bucket& b) const {
  if (round_ >= use_.local.size()) return finishing_;              // other ranks' microbatches: zeros
  if (round_ + 1 != microbatches_) return round_ < microbatches_;  // over, or not begun
  return bucket_states_[static_cast<size_t>(b.index)].pending == 0;
}

void BucketSync::launch_rounds() {
  for (; round_ < use_.global.size(); ++round_, next_in_round_ = 0) {
    for (; next_in_round_ < buckets_.size(); ++next_in_round_) {
      Bucket& b = buckets_[next_in_round_];
      if (!b.in_rounds() || !((use_.global[round_] >> b.group) & 1)) continue;
      if (!round_complete(b)) return values_->reduces_next(round_ + 1 == microbatches_ ? &b : nullptr);
      launch_round(b, bucket_states_[next_in_round_]);
    }
  }
  values_->reduces_next(nullptr);
}

namespace {

struct PartOnly final : StorageSource {
  void fetch(Storage&) override {
    throw CommError(
        "a whole gradient is read outside of backward, but this rank keeps a part of it: its parameter's optimizer "
        "state or gradients are sharded");
  }
};

}  // namespace

StorageSource& BucketSync::grad_source() {
  static PartOnly source;
  return source;
}

// What no contribution reached is zero, and so are rows that never change.
void BucketSync::zero_unwritten(const Bucket& b) {
  for (const Bucket::Entry& e : b.entries) {
    const Tensor grad = b.grad_of(e);
    if (!e.param->grad_written) {
      zero_fill(grad);
    } else if (e.param->frozen_rows_begin >= 0) {
      zero_fill(grad.rows(std::min(e.param->frozen_rows_begin, grad.dim(0)), grad.dim(0)));
    }
  }
}

void BucketSync::launch_step(Bucket& b, BucketState& s) {
  zero_unwritten(b);
  s.stats.bytes = b.bytes(), s.stats.reductions = 1;
  s.work = b.sharding == Sharding::kReplicated ? data_->all_reduce(b.grad, ReduceOp::kSum, b.what)
                                               : shard_->reduce_scatter(b.grad, b.master_grad, ReduceOp::kSum, b.what);
}

void BucketSync::launch_round(Bucket& b, BucketState& s) {
  constexpr size_t kInFlight = 2;  // bounds the buffers: those in flight, and those being written
  const auto in_flight = [&](const RoundWork& w) { return w.bucket == b.index; };
  while (round_works_.size() >= kInFlight || std::any_of(round_works_.begin(), round_works_.end(), in_flight))
    retire_round();
  // A rank that has microbatches left needs these before it can take part.
  if (finishing_) values_->issue_before(static_cast<int>(round_), b.needed_from);
  if (b.grad.storage().released()) b.grad.storage().restore();
  zero_unwritten(b);
  for (size_t k = 0; k < b.entries.size(); ++k) {
    const int64_t end = b.entries[k].end(), next = k + 1 < b.entries.size() ? b.entries[k + 1].begin : b.numel;
    zero_fill(b.grad.rows(end, next));
    b.entries[k].param->grad_written = false;
  }
  Tensor part;
  if (s.reduced++ > 0) {
    const MemoryScope memory(MemoryKind::kGradients);
    part = Tensor::empty({b.own.count}, b.precision.gradients);
  }
  s.stats.bytes += b.bytes(), ++s.stats.reductions;
  Work work = rounds_->reduce_scatter(b.grad, part.defined() ? part : b.master_grad, ReduceOp::kSum, b.what);
  round_works_.push_back({b.index, static_cast<int>(round_), std::move(work), part});
}

namespace {

// After a wait that began at wait_begin.
void count(BucketStats& stats, const WorkTimes& t, double wait_begin) {
  stats.exposed_s += steady_seconds() - wait_begin;
  stats.in_flight_s += t.done_s - t.issued_s;
  stats.transfer_s += t.done_s - t.begun_s;
  stats.issued_s = t.issued_s, stats.begun_s = t.begun_s, stats.done_s = t.done_s;
}

}  // namespace

void BucketSync::retire_round() {
  RoundWork w = std::move(round_works_.front());
  round_works_.pop_front();
  Bucket& b = buckets_[static_cast<size_t>(w.bucket)];
  BucketStats& stats = bucket_states_[static_cast<size_t>(w.bucket)].stats;
  // Others may need gathers before their gradients of this bucket are there.
  values_->issue_before(w.round, b.needed_from);
  const double begin = steady_seconds();
  w.work.wait(Stream::current());
  count(stats, w.work.times(), begin);
  if (w.part.defined())
    launch(Cast{w.part.raw(), b.master_grad.raw(), w.part.numel(), w.part.dtype(), b.master_grad.dtype(), true});
  b.grad.storage().release(grad_source());
}

void BucketSync::before_grad(Param& param) {
  const int bucket = state_of(param).bucket;
  const auto in_flight = [&] {
    return std::any_of(round_works_.begin(), round_works_.end(),
                       [&](const RoundWork& w) { return w.bucket == bucket; });
  };
  while (in_flight()) retire_round();
  const Bucket& b = buckets_[static_cast<size_t>(bucket)];
  if (b.in_rounds() && b.grad.storage().released()) b.grad.storage().restore();
}

// In the order in which copies have their own sums: those of rounds after the last round that touches them.
void BucketSync::order_copies() {
  copies_.clear(), next_copy_ = 0;
  if (!replica_) return;
  for (const Bucket& b : buckets_)
    if (active(b) && b.sharding != Sharding::kReplicated) copies_.push_back(b.index);
  const auto last_round = [&](int i) {
    const Bucket& b = buckets_[static_cast<size_t>(i)];
    size_t last = use_.global.size() - 1;
    while (b.in_rounds() && !((use_.global[last] >> b.group) & 1)) --last;
    return last;
  };
  std::stable_sort(copies_.begin(), copies_.end(), [&](int a, int b) { return last_round(a) < last_round(b); });
}

// Whether the sum over the ranks of this copy is known to be there.
bool BucketSync::copy_summed(const Bucket& b) const {
  const auto i = static_cast<size_t>(b.index);
  if (!b.in_rounds()) return i < next_ && bucket_states_[i].work.done();
  for (size_t j = round_ + (next_in_round_ > i ? 1 : 0); j < use_.global.size(); ++j)
    if ((use_.global[j] >> b.group) & 1) return false;
  return std::none_of(round_works_.begin(), round_works_.end(),
                      [&](const RoundWork& w) { return w.bucket == b.index; });
}

// all: waits for those that are not there, with the rounds retired.
void BucketSync::launch_copies(bool all) {
  for (; next_copy_ < copies_.size(); ++next_copy_) {
    const Bucket& b = buckets_[static_cast<size_t>(copies_[next_copy_])];
    BucketState& s = bucket_states_[static_cast<size_t>(b.index)];
    if (!all && !copy_summed(b)) return;
    wait_for(b, s.work, b.bytes(), Stream::current());
    s.stats.bytes += b.own_bytes(), ++s.stats.reductions;
    s.copies = replica_->all_reduce(b.master_grad, ReduceOp::kSum, b.what);
  }
}

void BucketSync::wait_for(const Bucket& b, Work& work, int64_t bytes, Stream& stream) {
  BucketState& s = bucket_states_[static_cast<size_t>(b.index)];
  const double begin = steady_seconds();
  {
    const ProfileScope waiting("wait for reduction", ProfileScope::Kind::kWait, stream);
    work.wait(stream);
  }
  const WorkTimes t = work.times();
  work = Work();
  if (t.done_s == 0) return;
  count(s.stats, t, begin);
  if (stream.profiler() != nullptr && stream.device() != Device::kMeta) {  // meta: another clock
    const auto ns = [](double seconds) { return static_cast<int64_t>(seconds * 1e9); };
    stream.profiler()->add_transfer({b.what, ns(t.issued_s), ns(t.done_s) - ns(t.issued_s), bytes});
  }
}

}  // namespace tpo
