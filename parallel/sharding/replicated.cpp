#include "parallel/sharding/replicated.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/optim/clip.h"
#include "core/profile.h"

namespace tpo {
namespace {

// What must be the same on all ranks for the buckets to mean the same.
uint64_t layout_hash(const std::vector<Bucket>& buckets) {
  RngKey h(0);
  for (const Bucket& b : buckets) {
    h = h.with(static_cast<uint64_t>(b.group)).with(static_cast<uint64_t>(b.numel)).with(b.decay ? 1 : 0);
    for (const Bucket::Entry& e : b.entries) h = h.with(e.param->name).with(static_cast<uint64_t>(e.begin));
  }
  return h.value;
}

}  // namespace

ReplicatedSync::ReplicatedSync(ParamStore& store, ProcessGroup& data, Options options)
    : store_(store),
      comm_(data.split(0, data.rank(), "buckets")),
      buckets_(plan_buckets(store, options)),
      bucket_states_(buckets_.size()),
      group_steps_(store.group_names().size()) {
  const uint64_t mine = layout_hash(buckets_);
  const auto all = comm_->all_gather_bytes(std::as_bytes(std::span<const uint64_t>(&mine, 1)), "bucket layout");
  for (size_t r = 0; r < all.size(); ++r) {
    check<CommError>(std::memcmp(all[r].data(), &mine, sizeof mine) == 0, "rank ", r, " and rank ", comm_->rank(),
                     " of group ", comm_->name(),
                     " built different buckets; their models, trainable patterns or bucket options differ");
  }
  for (const auto& p : store.params()) params_.emplace(p.get(), ParamState{});
  for (size_t i = 0; i < buckets_.size(); ++i) {
    Bucket& b = buckets_[i];
    materialise(b, *comm_);
    for (size_t k = 0; k < b.entries.size(); ++k) {
      params_.at(b.entries[k].param) = {static_cast<int>(i), static_cast<int>(k), 0};
    }
    bucket_states_[i].stats = {b.what, b.group, 0, 0, 0, 0};
  }
  store_.set_hooks(this);
}

ReplicatedSync::~ReplicatedSync() {
  store_.set_hooks(nullptr);
  for (Bucket& b : buckets_) {
    for (Bucket::Entry& e : b.entries) e.param->grad = Tensor();
  }
}

ReplicatedSync::ParamState& ReplicatedSync::state_of(const Param& p) {
  const auto it = params_.find(&p);
  check<CommError>(it != params_.end() && it->second.bucket >= 0, "parameter '", p.name,
                   "' has a gradient but no bucket; rebuild the ParamSync after creating or thawing parameters");
  return it->second;
}

// Names of the groups in a mask, for messages.
std::string ReplicatedSync::names_of(uint64_t groups) const {
  std::string out;
  for (size_t g = 0; g < 64; ++g) {
    if (!((groups >> g) & 1)) continue;
    const std::string name = g < store_.group_names().size() ? store_.group_names()[g] : std::to_string(g);
    out += cat(out.empty() ? "'" : ", '", name, "'");
  }
  return out;
}

void ReplicatedSync::begin_step(const StepUse& use) {
  const size_t groups = store_.group_names().size();
  const uint64_t unknown = groups < 64 ? use.global_groups() >> groups << groups : 0;
  check<CommError>(phase_ != Phase::kGrads, "[begin_step] the step before was not ended by finish_grads");
  check<CommError>(unknown == 0, "[begin_step] the plan has parameter groups ", names_of(unknown),
                   " but the model has ", groups, " groups");
  check<CommError>(use.local.size() <= use.global.size(), "[begin_step] this rank has ", use.local.size(),
                   " microbatches but the plan has ", use.global.size(), " rounds");
  for (size_t j = 0; j < use.local.size(); ++j) {
    const uint64_t more = use.local[j] & ~use.global[j];
    check<CommError>(more == 0, "[begin_step] group ", names_of(more), " is used by microbatch ", j,
                     " of this rank but not in the plan's global groups of that round");
  }
  use_ = use;
  global_groups_ = use.global_groups();
  microbatches_ = 0;
  next_ = 0;
  grad_scale_ = 1;
  phase_ = Phase::kGrads;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    BucketState& s = bucket_states_[i];
    s.pending = expected(buckets_[i].group) > 0 ? static_cast<int>(buckets_[i].entries.size()) : 0;
    s.stats = {buckets_[i].what, buckets_[i].group, 0, 0, 0, 0};
    for (Bucket::Entry& e : buckets_[i].entries) {
      e.param->grad_written = false;
      params_.at(e.param).fired = 0;
    }
  }
}

void ReplicatedSync::begin_microbatch() {
  check<CommError>(phase_ == Phase::kGrads, "[begin_microbatch] outside of begin_step .. finish_grads");
  check<CommError>(microbatches_ < use_.local.size(), "[begin_microbatch] this rank has more microbatches than the ",
                   use_.local.size(), " of the plan");
  ++microbatches_;
}

void ReplicatedSync::on_grad_ready(Param& param) {
  ParamState& state = state_of(param);
  const std::string& group = store_.group_names()[static_cast<size_t>(param.group)];
  check<CommError>(phase_ == Phase::kGrads, "parameter '", param.name,
                   "' got a gradient outside of begin_step .. finish_grads");
  const int want = expected(param.group);
  check<CommError>(state.fired < want, "parameter '", param.name, "' of group '", group,
                   "' got more gradient contributions than the ", want,
                   " microbatches that touch this group on this rank; the model uses it where the plan does not");
  if (++state.fired < want) return;
  --bucket_states_[static_cast<size_t>(state.bucket)].pending;
  launch_ready();
}

// Fixed order: a bucket goes when it is complete and all before it have gone.
void ReplicatedSync::launch_ready() {
  while (next_ < buckets_.size() && (!active(buckets_[next_]) || bucket_states_[next_].pending == 0)) {
    if (active(buckets_[next_])) launch(buckets_[next_], bucket_states_[next_]);
    ++next_;
  }
}

void ReplicatedSync::launch(Bucket& b, BucketState& s) {
  for (const Bucket::Entry& e : b.entries) {
    const Tensor grad = b.grad_of(e);
    if (!e.param->grad_written) {
      zero_fill(grad);
    } else if (e.param->frozen_rows_begin >= 0) {
      zero_fill(grad.rows(std::min(e.param->frozen_rows_begin, grad.dim(0)), grad.dim(0)));
    }
  }
  s.stats.bytes = b.bytes();
  s.work = comm_->all_reduce(b.grad, ReduceOp::kSum, b.what);
}

void ReplicatedSync::check_complete() const {
  for (size_t i = 0; i < buckets_.size(); ++i) {
    const int want = expected(buckets_[i].group);
    for (const Bucket::Entry& e : buckets_[i].entries) {
      const int fired = params_.at(e.param).fired;
      check<CommError>(fired == want, "parameter '", e.param->name, "' of group '",
                       store_.group_names()[static_cast<size_t>(buckets_[i].group)], "' got ", fired, " of ", want,
                       " expected gradient contributions: a microbatch that touches the group did not use it; freeze "
                       "it or give it a group of its own");
    }
  }
}

void ReplicatedSync::finish_grads(Stream& stream) {
  check<CommError>(phase_ == Phase::kGrads, "[finish_grads] without begin_step");
  check_complete();
  launch_ready();
  for (size_t i = 0; i < buckets_.size(); ++i) {
    BucketState& s = bucket_states_[i];
    if (!active(buckets_[i])) continue;
    const double begin = steady_seconds();
    {
      const ProfileScope waiting("wait for all-reduce", ProfileScope::Kind::kWait, stream);
      s.work.wait(stream);
    }
    s.stats.exposed_s = steady_seconds() - begin;
    const WorkTimes t = s.work.times();
    s.stats.in_flight_s = t.done_s - t.issued_s;
    s.stats.transfer_s = t.done_s - t.begun_s;
    if (stream.profiler() != nullptr && stream.device() != Device::kMeta) {  // meta: another clock
      const auto ns = [](double seconds) { return static_cast<int64_t>(seconds * 1e9); };
      stream.profiler()->add_transfer(
          {buckets_[i].what, ns(t.issued_s), ns(t.done_s) - ns(t.issued_s), buckets_[i].bytes()});
    }
  }
  phase_ = Phase::kReduced;
}

double ReplicatedSync::grad_norm() {
  check<CommError>(phase_ == Phase::kReduced, "[grad_norm] before finish_grads");
  double squares = 0;
  for (const Bucket& b : buckets_) {
    if (active(b)) squares += grad_sum_squares(b.grad);
  }
  if (!std::isfinite(squares)) report_non_finite();
  return std::sqrt(squares);
}

void ReplicatedSync::report_non_finite() const {
  for (const Bucket& b : buckets_) {
    if (!active(b)) continue;
    for (const Bucket::Entry& e : b.entries) {
      check<NonFiniteGradient>(check_finite(b.grad_of(e)), "the gradient of parameter '", e.param->name,
                               "' is not finite (NaN or infinity)");
    }
  }
  TPO_ASSERT(!"the sum of squares of finite gradients is finite");
}

double ReplicatedSync::clip(double max_norm) {
  const double norm = grad_norm();
  grad_scale_ = clip_factor(norm, max_norm);
  return norm;
}

void ReplicatedSync::step(const AdamWParams& params) {
  check<CommError>(phase_ == Phase::kReduced, "[step] before finish_grads");
  phase_ = Phase::kIdle;
  for (size_t g = 0; g < group_steps_.size(); ++g) group_steps_[g] += static_cast<int64_t>((global_groups_ >> g) & 1);
  for (Bucket& b : buckets_) {
    if (!active(b)) continue;
    AdamWParams p = params;
    p.lr *= b.lr_scale;
    p.grad_scale *= static_cast<float>(grad_scale_);
    if (!b.decay) p.weight_decay = 0;
    adamw_step(b.value, b.grad, b.m, b.v, p, group_steps_[static_cast<size_t>(b.group)]);
  }
}

void ReplicatedSync::for_each_state(const std::function<void(const StateEntry&)>& fn) {
  const auto give = [&](const std::string& name, const Tensor& value, const Param& p) {
    const Tensor flat = value.view({value.numel()});
    int64_t at = 0;
    for (const Rect& r : p.rects()) {
      fn({name, flat.rows(at, at + r.numel()), &p, r, 0});
      at += r.numel();
    }
  };
  for (const auto& p : store_.params()) {
    give(p->name, p->value, *p);
    const ParamState& s = params_.at(p.get());
    if (s.bucket < 0) continue;
    const Bucket& b = buckets_[static_cast<size_t>(s.bucket)];
    const Bucket::Entry& e = b.entries[static_cast<size_t>(s.entry)];
    give("optim.m." + p->name, b.m_of(e), *p);
    give("optim.v." + p->name, b.v_of(e), *p);
  }
}

std::map<std::string, int64_t> ReplicatedSync::group_steps() const {
  std::map<std::string, int64_t> out;
  for (size_t g = 0; g < group_steps_.size(); ++g) out[store_.group_names()[g]] = group_steps_[g];
  return out;
}

void ReplicatedSync::set_group_steps(const std::map<std::string, int64_t>& steps) {
  const auto& names = store_.group_names();
  for (const auto& [name, count] : steps) {
    check<ConfigError>(std::find(names.begin(), names.end(), name) != names.end(), "the model has no parameter group '",
                       name, "'");
    check<ConfigError>(count >= 0, "step count ", count, " of parameter group '", name, "' must be >= 0");
  }
  for (const auto& [name, count] : steps) {
    group_steps_[static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin())] = count;
  }
}

CommStats ReplicatedSync::stats() const {
  CommStats total;
  for (const BucketState& s : bucket_states_) {
    total.buckets.push_back(s.stats);
    total.bytes += s.stats.bytes;
    total.in_flight_s += s.stats.in_flight_s;
    total.transfer_s += s.stats.transfer_s;
    total.exposed_s += s.stats.exposed_s;
  }
  return total;
}

}  // namespace tpo
