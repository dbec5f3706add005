#include "parallel/sharding/bucket_sync.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/optim/clip.h"
#include "parallel/mesh.h"

namespace tpo {
namespace {

// What must be the same on all ranks for the buckets to mean the same. Sizes are those of parts, and so are not on the
// tensor axis.
uint64_t layout_hash(const std::vector<Bucket>& buckets, bool sizes) {
  RngKey h(0);
  for (const Bucket& b : buckets) {
    for (const int64_t fact : {int64_t{b.group}, sizes ? b.numel : 0, b.first_use, b.last_use, b.needed_from})
      h = h.with(static_cast<uint64_t>(fact));
    h = h.with(static_cast<uint64_t>(b.sharding)).with(std::bit_cast<uint32_t>(b.lr_scale));
    h = h.with(static_cast<uint64_t>(b.precision.weights));
    h = h.with((b.trainable ? 1u : 0u) + (b.decay ? 2u : 0u) + (b.reshard ? 4u : 0u));
    for (const Bucket::Entry& e : b.entries) h = h.with(e.param->name).with(static_cast<uint64_t>(sizes ? e.begin : 0));
  }
  return h.value;
}

}  // namespace

SyncGroups::SyncGroups(const Mesh& mesh)
    : data(&mesh.data()), shard(&mesh.shard()), replica(&mesh.replica()), tensor(&mesh.tensor()) {}

namespace {

// Whoever keeps a handle of what a BucketSync lent, longer than the BucketSync.
struct Gone final : StorageSource {
  void fetch(Storage&) override {
    throw CommError(
        "a sharded value or gradient is read after its ParamSync was destroyed; values would be whole had it been "
        "released (ParamSync::release)");
  }
};

void orphan(const Tensor& t) {
  static Gone gone;
  if (t.defined()) t.storage().orphan(gone);
}

constexpr const char* kDifferent =
    " built different buckets; their models, trainable patterns or bucket options differ";

// The largest part that a rank of the tensor axis has of each parameter. Collective over it.
PartSizes widest_parts(const ParamStore& store, ProcessGroup* tensor) {
  PartSizes widest;
  if (tensor == nullptr || tensor->size() == 1) return widest;
  std::vector<int64_t> mine;
  for (const auto& p : store.params()) mine.push_back(p->value.numel());
  for (const auto& bytes : tensor->all_gather_bytes(std::as_bytes(std::span(mine)), "sizes of parts")) {
    std::vector<int64_t> theirs(bytes.size() / sizeof(int64_t));
    std::memcpy(theirs.data(), bytes.data(), bytes.size());
    check<CommError>(theirs.size() == mine.size(), "ranks of group ", tensor->name(), kDifferent);
    for (size_t i = 0; i < theirs.size(); ++i) {
      int64_t& size = widest[store.params()[i].get()];
      size = std::max(size, theirs[i]);
    }
  }
  return widest;
}

std::unique_ptr<ProcessGroup> own_group(ProcessGroup& of, const char* label) {
  return of.split_by([](int rank) { return std::pair(0, rank); }, label);
}

}  // namespace

BucketSync::BucketSync(ParamStore& store, const SyncGroups& groups, const Options& options)
    : store_(store), groups_(groups), group_steps_(store.group_names().size()) {
  for (const auto& p : store.params())
    check<CommError>(p->value.defined(), "parameter '", p->name,
                     "' has no value: the ParamSync that sharded it was destroyed without release()");
  data_ = own_group(*groups_.data, "buckets");
  shard_ = own_group(*groups_.shard, "parts");
  rounds_ = own_group(*groups_.shard, "rounds");
  if (groups_.replica != nullptr && groups_.replica->size() > 1) replica_ = own_group(*groups_.replica, "copies");
  buckets_ = plan_buckets(store, options, shard_->size(), widest_parts(store, groups_.tensor));
  bucket_states_.resize(buckets_.size());
  check_same_buckets();
  for (const auto& p : store.params()) params_.emplace(p.get(), ParamState{});
  values_ = std::make_unique<ValueGatherer>(buckets_, *groups_.shard, options.prefetch_buckets);
  for (size_t i = 0; i < buckets_.size(); ++i) {
    Bucket& b = buckets_[i];
    b.own = own_range(b, shard_->rank(), shard_->size());
    materialise(b, b.sharding == Sharding::kReplicated ? *data_ : *shard_);
    if (b.in_rounds()) b.grad.storage().release(grad_source());  // values: by the gatherer
    for (size_t k = 0; k < b.entries.size(); ++k)
      params_.at(b.entries[k].param) = {static_cast<int>(i), static_cast<int>(k), 0};
    bucket_states_[i].stats.what = b.what, bucket_states_[i].stats.group = b.group;
    values_->adopt(static_cast<int>(i));  // one bucket at a time is whole here
  }
  for (const auto& p : store.params())
    if (params_.at(p.get()).bucket < 0) (void)p->value.raw();  // taken now and not in the middle of a step
  // What only others touch goes first: they may issue the gather after it.
  values_->before_backward_wait = [this] { launch_rounds(); };
  store_.set_hooks(this);
}

void BucketSync::release() {
  check_attached("release");
  check<CommError>(phase_ != Phase::kGrads, "[release] between begin_step and finish_grads");
  values_->gather_all();
  leave_store();
  phase_ = Phase::kReleased;
}

void BucketSync::leave_store() {
  store_.set_hooks(nullptr);
  for (Bucket& b : buckets_)
    for (Bucket::Entry& e : b.entries) e.param->grad = Tensor();
}

BucketSync::~BucketSync() {
  const bool released = phase_ == Phase::kReleased;  // then the store may be another's
  if (!released) leave_store();
  for (Bucket& b : buckets_) {
    if (!released && b.gathered())
      for (Bucket::Entry& e : b.entries) e.param->value = Tensor();
    orphan(b.value);
    if (b.in_rounds()) orphan(b.grad);
  }
}

void BucketSync::check_same_buckets() const {
  for (ProcessGroup* group : {data_.get(), groups_.tensor}) {
    if (group == nullptr) continue;
    const uint64_t mine = layout_hash(buckets_, group == data_.get());
    const auto all = group->all_gather_bytes(std::as_bytes(std::span<const uint64_t>(&mine, 1)), "bucket layout");
    for (size_t r = 0; r < all.size(); ++r)
      check<CommError>(std::memcmp(all[r].data(), &mine, sizeof mine) == 0, "rank ", r, " and rank ", group->rank(),
                       " of group ", group->name(), kDifferent);
  }
}

BucketSync::ParamState& BucketSync::state_of(const Param& p) {
  const auto it = params_.find(&p);
  check<CommError>(
      it != params_.end() && it->second.bucket >= 0, "parameter '", p.name,
      "' has a gradient but no bucket; after creating or thawing parameters release() the ParamSync and build "
      "another");
  return it->second;
}

// Names of the groups in a mask, for messages.
std::string BucketSync::names_of(uint64_t groups) const {
  std::string out;
  for (size_t g = 0; g < 64; ++g) {
    if (!((groups >> g) & 1)) continue;
    const std::string name = g < store_.group_names().size() ? store_.group_names()[g] : std::to_string(g);
    out += cat(out.empty() ? "'" : ", '", name, "'");
  }
  return out;
}

void BucketSync::check_attached(const char* call) const {
  check<CommError>(phase_ != Phase::kReleased, "[", call, "] after release()");
  check<CommError>(!values_->full(), "[", call, "] inside of with_full_values");
}

void BucketSync::begin_step(const StepUse& use) {
  const size_t groups = store_.group_names().size();
  const uint64_t unknown = groups < 64 ? use.global_groups() >> groups << groups : 0;
  check_attached("begin_step");
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
  next_ = round_ = next_in_round_ = 0;
  finishing_ = false;
  grad_scale_ = 1;
  phase_ = Phase::kGrads;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    BucketState& s = bucket_states_[i];
    s.pending = expected(buckets_[i].group) > 0 ? static_cast<int>(buckets_[i].entries.size()) : 0;
    s.due = s.reduced = 0;
    s.stats = {};
    s.stats.what = buckets_[i].what, s.stats.group = buckets_[i].group;
    for (Bucket::Entry& e : buckets_[i].entries) {
      if (buckets_[i].trainable) e.param->grad = buckets_[i].grad_of(e);
      e.param->grad_written = false;
      params_.at(e.param).fired = 0;
    }
  }
  order_copies();
  values_->begin_step(use);
}

bool BucketSync::touches(size_t round, const Bucket& b) const {
  return round < use_.local.size() && ((use_.local[round] >> b.group) & 1) != 0;
}

void BucketSync::begin_microbatch() {
  check<CommError>(phase_ == Phase::kGrads, "[begin_microbatch] outside of begin_step .. finish_grads");
  check<CommError>(microbatches_ < use_.local.size(), "[begin_microbatch] this rank has more microbatches than the ",
                   use_.local.size(), " of the plan");
  end_microbatch();
  const size_t round = microbatches_++;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    const bool touched = touches(round, buckets_[i]);
    bucket_states_[i].due += touched;
    if (buckets_[i].in_rounds()) bucket_states_[i].pending = touched ? static_cast<int>(buckets_[i].entries.size()) : 0;
  }
  values_->begin_microbatch();
}

// Every parameter of what the microbatch touches has fired. What others touch in its round goes now, where this rank's
// gathers of the round are all issued: a rank that waits for a reduction must not hold back gathers.
void BucketSync::end_microbatch() {
  if (microbatches_ == 0) return;
  for (const Bucket& b : buckets_)
    if (b.in_rounds()) check_fired(b);
  launch_rounds();
}

void BucketSync::end_forward() {
  check<CommError>(phase_ == Phase::kGrads && microbatches_ > 0, "[end_forward] without begin_microbatch");
  values_->end_forward();
}

void BucketSync::before_use(Param& param) {
  const ParamState& state = params_.at(&param);
  if (state.bucket >= 0) values_->use(param, state.bucket);
}

bool BucketSync::follows_uses(const Param& param) const {
  const int bucket = params_.at(&param).bucket;
  return bucket >= 0 && buckets_[static_cast<size_t>(bucket)].gathered();
}

void BucketSync::on_swept(Param& param) { values_->swept(param, params_.at(&param).bucket); }

void BucketSync::on_grad_ready(Param& param) {
  ParamState& state = state_of(param);
  const std::string& group = store_.group_names()[static_cast<size_t>(param.group)];
  check<CommError>(phase_ == Phase::kGrads, "parameter '", param.name,
                   "' got a gradient outside of begin_step .. finish_grads");
  BucketState& s = bucket_states_[static_cast<size_t>(state.bucket)];
  check<CommError>(state.fired < s.due, "parameter '", param.name, "' of group '", group,
                   "' got gradient contribution ", state.fired + 1, " in microbatch ", microbatches_,
                   " of this rank, but up to there only ", s.due,
                   " touch the group; the model uses it where the plan does not");
  const bool in_rounds = buckets_[static_cast<size_t>(state.bucket)].in_rounds();
  values_->swept(param, state.bucket);
  if (++state.fired < expected(param.group) && !in_rounds) return;
  if (--s.pending == 0) s.stats.complete_s = steady_seconds();
  launch_ready();
}

void BucketSync::check_fired(const Bucket& b) const {
  const int want = bucket_states_[static_cast<size_t>(b.index)].due;
  for (const Bucket::Entry& e : b.entries) {
    const int fired = params_.at(e.param).fired;
    check<CommError>(fired == want, "parameter '", e.param->name, "' of group '",
                     store_.group_names()[static_cast<size_t>(b.group)], "' got ", fired, " of ", want,
                     " expected gradient contributions: a microbatch that touches the group did not use it; freeze "
                     "it or give it a group of its own");
  }
}

void BucketSync::finish_grads(Stream& stream) {
  check<CommError>(phase_ == Phase::kGrads, "[finish_grads] without begin_step");
  check<CommError>(microbatches_ == use_.local.size(), "[finish_grads] this rank ran ", microbatches_, " of the ",
                   use_.local.size(), " microbatches that the plan has for it");
  for (const Bucket& b : buckets_)
    if (b.trainable) check_fired(b);
  launch_rounds();  // before end_microbatches waits for gathers
  finishing_ = true;
  values_->end_microbatches();
  launch_ready();
  TPO_ASSERT(next_ == buckets_.size() && round_ == use_.global.size());
  values_->finish();
  while (!round_works_.empty()) retire_round();
  launch_copies(true);
  for (const Bucket& b : buckets_)
    if (active(b)) wait_for(b, bucket_states_[static_cast<size_t>(b.index)].work, b.bytes(), stream);
  for (const int i : copies_) {
    const Bucket& b = buckets_[static_cast<size_t>(i)];
    wait_for(b, bucket_states_[static_cast<size_t>(i)].copies, b.own_bytes(), stream);
  }
  for (Bucket& b : buckets_) {
    if (!b.trainable || b.sharding != Sharding::kOptimizer) continue;
    for (Bucket::Entry& e : b.entries)
      e.param->grad = Tensor::deferred(e.param->value.shape(), b.precision.gradients, grad_source());
  }
  phase_ = Phase::kReduced;
}

double BucketSync::grad_norm() {
  check<CommError>(phase_ == Phase::kReduced, "[grad_norm] before finish_grads");
  const double squares = sum_squares();
  if (!std::isfinite(squares)) report_non_finite();
  return std::sqrt(squares);
}

namespace {

// Whether this rank is the one of the tensor axis that counts p.
bool counts(const Param& p, const ProcessGroup* tensor) {
  if (tensor == nullptr || tensor->size() == 1) return true;
  return p.tp.rects.empty() ? tensor->rank() == 0 : p.tp.owner;
}

// The part of an entry that lies in this rank's range of its bucket, and its place there.
Bucket::Range part_of(const Bucket& b, const Bucket::Entry& e) {
  const int64_t begin = std::max(b.own.begin, e.begin), end = std::min(b.own.end(), e.end());
  return {begin - b.own.begin, std::max<int64_t>(0, end - begin)};
}

Tensor gradient_part(const Bucket& b, const Bucket::Entry& e) {
  const Bucket::Range part = part_of(b, e);
  return part.count > 0 ? b.master_grad.rows(part.begin, part.end()) : b.master_grad.rows(0, 0);
}

}  // namespace

double BucketSync::sum_squares() const {
  double whole = 0, parts = 0;
  bool any_parts = false;
  for (const Bucket& b : buckets_) {
    any_parts = any_parts || b.sharding != Sharding::kReplicated;
    if (!active(b)) continue;
    double squares = 0;
    for (const Bucket::Entry& e : b.entries)
      if (counts(*e.param, groups_.tensor)) squares += grad_sum_squares(gradient_part(b, e));
    (b.sharding == Sharding::kReplicated ? whole : parts) += squares;
  }
  if (any_parts) parts = shard_->all_reduce_value(parts, ReduceOp::kSum, "gradient norm");
  const double sum = whole + parts;
  return groups_.tensor != nullptr ? groups_.tensor->all_reduce_value(sum, ReduceOp::kSum, "gradient norm") : sum;
}

// The first parameter, in creation order, that is bad anywhere: all ranks find the same.
void BucketSync::report_non_finite() const {
  const auto count = static_cast<int64_t>(store_.params().size());
  int64_t first = count;
  for (int64_t i = 0; i < count && first == count; ++i) {
    const ParamState& s = params_.at(store_.params()[static_cast<size_t>(i)].get());
    if (s.bucket < 0) continue;
    const Bucket& b = buckets_[static_cast<size_t>(s.bucket)];
    if (active(b) && !check_finite(gradient_part(b, b.entries[static_cast<size_t>(s.entry)]))) first = i;
  }
  first = -data_->all_reduce_value(-first, ReduceOp::kMax, "first bad parameter");
  if (groups_.tensor != nullptr)
    first = -groups_.tensor->all_reduce_value(-first, ReduceOp::kMax, "first bad parameter");
  TPO_ASSERT(first < count);
  throw NonFiniteGradient(cat("the gradient of parameter '", store_.params()[static_cast<size_t>(first)]->name,
                              "' is not finite (NaN or infinity)"));
}

double BucketSync::clip(double max_norm) {
  const double norm = grad_norm();
  grad_scale_ = clip_factor(norm, max_norm);
  return norm;
}

void BucketSync::step(const AdamWParams& params) {
  check_attached("step");
  check<CommError>(phase_ == Phase::kReduced, "[step] before finish_grads");
  phase_ = Phase::kIdle;
  for (size_t g = 0; g < group_steps_.size(); ++g) group_steps_[g] += static_cast<int64_t>((global_groups_ >> g) & 1);
  // In the order of first use, in which the next step waits for values.
  for (auto it = buckets_.rbegin(); it != buckets_.rend(); ++it) {
    Bucket& b = *it;
    if (!active(b)) continue;
    AdamWParams p = params;
    p.lr *= b.lr_scale;
    p.grad_scale *= static_cast<float>(grad_scale_);
    if (!b.decay) p.weight_decay = 0;
    values_->use_own(b);
    adamw_step(b.master, b.master_grad, b.m, b.v, p, group_steps_[static_cast<size_t>(b.group)]);
    publish(b);
  }
}

// Values that are held follow the masters that have changed.
void BucketSync::publish(Bucket& b) {
  if (b.gathered()) return;
  if (b.has_masters()) write_values(b, b.own_value());
  if (b.sharding != Sharding::kReplicated) values_->spread(b);
}

void BucketSync::state_loaded() {
  check_attached("state_loaded");
  check<CommError>(phase_ != Phase::kGrads, "[state_loaded] between begin_step and finish_grads");
  for (auto it = buckets_.rbegin(); it != buckets_.rend(); ++it) {
    if (!it->has_masters()) continue;
    values_->use_own(*it);
    publish(*it);
  }
}

void BucketSync::discard_grads() {
  check<CommError>(phase_ == Phase::kReduced, "[discard_grads] before finish_grads");
  phase_ = Phase::kIdle;
}

void BucketSync::with_full_values(const std::function<void()>& fn) {
  check_attached("with_full_values");
  check<CommError>(phase_ != Phase::kGrads, "[with_full_values] between begin_step and finish_grads");
  values_->gather_all();
  try {
    fn();
  } catch (...) {
    values_->release_all();
    throw;
  }
  values_->release_all();
}

void BucketSync::for_each_state(const std::function<void(const StateEntry&)>& fn) {
  values_->settle();
  // Elements [part.begin, part.end()) of a parameter lie at the start of `held`; one entry for each rectangle they
  // meet.
  const auto give = [&](const std::string& name, const Tensor& held, Bucket::Range part, const Param& p, bool owner) {
    int64_t at = 0;
    bool any = false;
    for (const Rect& r : p.rects()) {
      const int64_t begin = std::max(at, part.begin), end = std::min(at + r.numel(), part.end());
      if (begin < end)
        fn({name, held.rows(begin - part.begin, end - part.begin), &p, r, begin - at, owner}), any = true;
      at += r.numel();
    }
    if (!any) fn({name, held.rows(0, 0), &p, p.rects().front(), 0, false});
  };
  const bool first_copy = data_->rank() == 0, first_part = replica_ == nullptr || replica_->rank() == 0;
  for (const auto& p : store_.params()) {
    const bool counted = counts(*p, groups_.tensor);
    const ParamState& s = params_.at(p.get());
    const Bucket* b = s.bucket >= 0 ? &buckets_[static_cast<size_t>(s.bucket)] : nullptr;
    const bool by_master = b != nullptr && (b->gathered() || b->has_masters());
    if (!by_master) give(p->name, p->value.view({p->value.numel()}), {0, p->value.numel()}, *p, counted && first_copy);
    if (b == nullptr) continue;
    const Bucket::Entry& e = b->entries[static_cast<size_t>(s.entry)];
    const Bucket::Range held = part_of(*b, e), part{held.begin + b->own.begin - e.begin, held.count};
    const auto of = [&](const Tensor& own) {
      return held.count > 0 ? own.rows(held.begin, held.end()) : own.rows(0, 0);
    };
    const bool owner = counted && (b->sharding == Sharding::kReplicated ? first_copy : first_part);
    if (by_master) give(p->name, of(b->master), part, *p, owner);
    if (!b->trainable) continue;
    give("optim.m." + p->name, of(b->m), part, *p, owner);
    give("optim.v." + p->name, of(b->v), part, *p, owner);
  }
}

std::map<std::string, int64_t> BucketSync::group_steps() const {
  std::map<std::string, int64_t> out;
  for (size_t g = 0; g < group_steps_.size(); ++g) out[store_.group_names()[g]] = group_steps_[g];
  return out;
}

void BucketSync::set_group_steps(const std::map<std::string, int64_t>& steps) {
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

CommStats BucketSync::stats() const {
  CommStats total;
  for (const Bucket& b : buckets_) {
    BucketStats s = bucket_states_[static_cast<size_t>(b.index)].stats;
    const GatherStats& g = values_->stats(b.index);
    s.gathers = g.gathers, s.gather_bytes = g.bytes, s.gather_exposed_s = g.exposed_s;
    total.bytes += s.bytes, total.gather_bytes += s.gather_bytes;
    total.in_flight_s += s.in_flight_s;
    total.transfer_s += s.transfer_s;
    total.exposed_s += s.exposed_s + s.gather_exposed_s;
    total.buckets.push_back(std::move(s));
  }
  return total;
}

}  // namespace tpo
