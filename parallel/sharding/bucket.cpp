#include "parallel/sharding/bucket.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <unordered_map>

#include "core/error.h"
#include "core/kernels/basic.h"
#include "core/kernels/cast.h"
#include "core/launch.h"

namespace tpo {

const char* name_of(Sharding sharding) {
  switch (sharding) {
    case Sharding::kReplicated:
      return "replicated";
    case Sharding::kOptimizer:
      return "optimizer";
    case Sharding::kGradients:
      return "gradients";
    case Sharding::kParameters:
      return "parameters";
  }
  return "?";
}

void zero_fill(const Tensor& t) {
  if (t.numel() > 0) launch(FillZero{t.raw(), t.nbytes()});
}

Tensor Bucket::slice(const Tensor& flat, const Entry& e) {
  return flat.rows(e.begin, e.end()).view(e.param->value.shape());
}

namespace {

struct Place {
  int64_t first = 0, last = 0;
};
using Places = std::unordered_map<const Param*, Place>;

Places places_in_forward(const ParamStore& store, const BucketOptions& options) {
  Places places;
  int64_t next = 0;
  for (const std::string& name : options.forward_order) {
    const Param* p = store.find(name);
    check<ConfigError>(p != nullptr, "forward_order names parameter '", name, "', which does not exist");
    places.try_emplace(p, Place{next, next}).first->second.last = next;
    ++next;
  }
  for (const auto& p : store.params())
    if (places.try_emplace(p.get(), Place{next, next}).second) ++next;
  return places;
}

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// "language.layers.7" of "language.layers.7.attn.q.weight": the block that a parameter belongs to; outside of blocks
// the layer.
std::string block_of(const std::string& name) {
  for (const std::string list : {"layers.", "blocks."}) {
    const size_t at = name.find(list);
    if (at != std::string::npos) return name.substr(0, name.find('.', at + list.size()));
  }
  return name.substr(0, name.rfind('.'));
}

ShardingRule rule_for(const Param& p, const BucketOptions& options) {
  ShardingRule rule{"", options.sharding, options.reshard_after_forward};
  for (const ShardingRule& r : options.rules)
    if (glob_match(r.pattern, p.name)) rule = r;
  return rule;
}

std::string bucket_name(const Bucket& b) {
  std::string s = cat(b.trainable ? "bucket " : "frozen bucket ", b.index, " [", b.entries.front().param->name);
  if (b.entries.size() > 1) s += cat(" .. ", b.entries.back().param->name);
  return s + "]";
}

void check_options(const ParamStore& store, const BucketOptions& options) {
  check<ConfigError>(options.bucket_bytes >= 4096, "bucket_bytes = ", options.bucket_bytes, " must be >= 4096");
  check<ConfigError>(options.prefetch_buckets >= 0, "prefetch = ", options.prefetch_buckets, " must be >= 0");
  check_precision(options.precision);
  const auto& all = store.params();
  for (const ShardingRule& r : options.rules)
    check<ConfigError>(
        std::any_of(all.begin(), all.end(), [&](const auto& p) { return glob_match(r.pattern, p->name); }),
        "sharding rule \"", r.pattern, "\" matches no parameter; ",
        all.empty() ? "the model has none" : cat("names look like ", all.front()->name));
}

// What all parameters of a bucket share.
using Fate = std::tuple<int, bool, Sharding, bool, bool, float, DType>;

Fate fate_of(const Param& p, const ShardingRule& rule) {
  const bool decay = p.trainable && p.decay && p.frozen_rows_begin < 0;
  const bool reshard = rule.sharding == Sharding::kParameters && rule.reshard_after_forward;
  return {p.group, p.trainable, rule.sharding, reshard, decay, p.trainable ? p.lr_scale : 1.0f, p.value.dtype()};
}

// A bucket that may take more, and its elements where it is largest on the tensor axis.
struct OpenBucket {
  Bucket bucket;
  int64_t widest = 0;
};

// Whether p, of so many elements where it is largest, may not join the open bucket.
bool begins_another(const OpenBucket& open, const Param& p, int64_t widest, const BucketOptions& options) {
  const Param& last = *open.bucket.entries.back().param;
  if (!p.trainable && block_of(last.name) != block_of(p.name)) return true;
  const auto element = static_cast<int64_t>(size_of(options.precision.gradients));
  return (open.widest + widest) * element > options.bucket_bytes;
}

// Buckets of parameters that come in the order in which their gradients do.
std::vector<Bucket> fill_buckets(const std::vector<Param*>& order, const BucketOptions& options,
                                 const PartSizes& widest_parts) {
  std::map<Fate, OpenBucket> all;
  std::vector<Bucket> closed;
  for (Param* p : order) {
    const Fate fate = fate_of(*p, rule_for(*p, options));
    const auto known = widest_parts.find(p);
    const int64_t widest = round_up(known == widest_parts.end() ? p->value.numel() : known->second, Bucket::kAlign);
    OpenBucket& open = all[fate];
    if (!open.bucket.entries.empty() && begins_another(open, *p, widest, options)) {
      closed.push_back(std::move(open.bucket));
      open = OpenBucket{};
    }
    open.widest += widest;
    Bucket& b = open.bucket;
    b.precision = options.precision;
    std::tie(b.group, b.trainable, b.sharding, b.reshard, b.decay, b.lr_scale, b.precision.weights) = fate;
    b.entries.push_back({p, b.numel, p->value.numel()});
    b.numel += round_up(p->value.numel(), Bucket::kAlign);
  }
  for (auto& [fate, open] : all) closed.push_back(std::move(open.bucket));
  return closed;
}

// The place in forward where each block begins.
std::unordered_map<std::string, int64_t> block_begins(const ParamStore& store, const Places& places) {
  std::unordered_map<std::string, int64_t> begins;
  for (const auto& p : store.params()) {
    int64_t& begin = begins.try_emplace(block_of(p->name), places.at(p.get()).first).first->second;
    begin = std::min(begin, places.at(p.get()).first);
  }
  return begins;
}

}  // namespace

std::vector<Bucket> plan_buckets(const ParamStore& store, const BucketOptions& options, int shards,
                                 const PartSizes& widest_parts) {
  check_options(store, options);
  const Places places = places_in_forward(store, options);
  std::vector<Param*> order;
  for (const auto& p : store.params())
    if (p->trainable || rule_for(*p, options).sharding == Sharding::kParameters) order.push_back(p.get());
  std::sort(order.begin(), order.end(),
            [&](const Param* a, const Param* b) { return places.at(a).first > places.at(b).first; });
  std::vector<Bucket> buckets = fill_buckets(order, options, widest_parts);
  const auto begins = block_begins(store, places);
  for (Bucket& b : buckets) {
    const Param* first = b.entries.back().param;
    b.first_use = places.at(first).first, b.needed_from = begins.at(block_of(first->name));
    for (const Bucket::Entry& e : b.entries) b.last_use = std::max(b.last_use, places.at(e.param).last);
    if (b.sharding != Sharding::kReplicated) b.numel = round_up(b.numel, Bucket::kAlign * shards);
  }
  // A bucket can go when its last gradient is there: that of the parameter used earliest in forward.
  std::sort(buckets.begin(), buckets.end(), [](const Bucket& a, const Bucket& b) { return a.first_use > b.first_use; });
  for (size_t i = 0; i < buckets.size(); ++i) {
    buckets[i].index = static_cast<int>(i);
    buckets[i].what = bucket_name(buckets[i]);
  }
  return buckets;
}

Bucket::Range own_range(const Bucket& b, int rank, int shards) {
  if (b.sharding == Sharding::kReplicated) return {0, b.numel};
  return {b.numel / shards * rank, b.numel / shards};
}

namespace {

Tensor filled(MemoryKind kind, int64_t numel, DType dtype) {
  const MemoryScope memory(kind);
  return Tensor::zeros({numel}, dtype);
}

void make_gradients(Bucket& b, ProcessGroup& comm) {
  const MemoryScope memory(MemoryKind::kGradients);
  if (b.in_rounds()) {
    b.grad = Tensor::empty({b.numel}, b.precision.gradients);
    b.master_grad = Tensor::zeros({b.own.count}, b.precision.gradients);
  } else {
    b.grad = comm.shared_buffer({b.numel}, b.precision.gradients);
    b.master_grad = b.grad.rows(b.own.begin, b.own.end());
  }
}

}  // namespace

void write_values(const Bucket& b, const Tensor& part) {
  launch(Cast{b.master.raw(), part.raw(), part.numel(), b.master.dtype(), part.dtype()});
}

void materialise(Bucket& b, ProcessGroup& comm) {
  b.value = filled(MemoryKind::kWeights, b.numel, b.precision.weights);
  if (b.trainable) {
    b.m = filled(MemoryKind::kOptimizer, b.own.count, b.precision.master);
    b.v = filled(MemoryKind::kOptimizer, b.own.count, b.precision.master);
    make_gradients(b, comm);
  }
  for (const Bucket::Entry& e : b.entries) {
    Param& p = *e.param;
    const Tensor home = b.value_of(e);
    const void* initial = p.value.raw();  // taken on meta too, where it is counted
    if (home.device() == Device::kCpu && e.numel > 0)
      std::memcpy(home.raw(), initial, static_cast<size_t>(home.nbytes()));
    p.value = home;
    if (b.trainable) p.grad = b.grad_of(e);
  }
  b.master = b.own_value();
  if (!b.gathered() && !b.has_masters()) return;
  const Tensor from = b.master;
  b.master = b.has_masters() ? filled(MemoryKind::kOptimizer, b.own.count, b.precision.master)
                             : filled(MemoryKind::kWeights, b.own.count, b.precision.weights);
  launch(Cast{from.raw(), b.master.raw(), from.numel(), from.dtype(), b.master.dtype()});
}

}  // namespace tpo
