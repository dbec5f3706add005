#include "parallel/sharding/bucket.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <unordered_map>

#include "core/error.h"

namespace tpo {

Tensor Bucket::slice(const Tensor& flat, const Entry& e) {
  return flat.rows(e.begin, e.begin + e.numel).view(e.param->value.shape());
}

void zero_fill(const Tensor& t) {
  if (t.device() == Device::kCpu && t.nbytes() > 0) std::memset(t.raw(), 0, static_cast<size_t>(t.nbytes()));
}

namespace {

// Position of first use in forward, per parameter, as far as it is known.
std::unordered_map<const Param*, size_t> forward_positions(const ParamStore& store, const BucketOptions& options) {
  std::unordered_map<const Param*, size_t> position;
  for (const std::string& name : options.forward_order) {
    const Param* p = store.find(name);
    check<ConfigError>(p != nullptr, "forward_order names parameter '", name, "', which does not exist");
    position.try_emplace(p, position.size());
  }
  for (const auto& p : store.params()) position.try_emplace(p.get(), position.size());
  return position;
}

int64_t padded(int64_t numel) { return (numel + Bucket::kAlign - 1) / Bucket::kAlign * Bucket::kAlign; }

std::string bucket_name(const Bucket& b) {
  std::string s = cat("bucket ", b.index, " [", b.entries.front().param->name);
  if (b.entries.size() > 1) s += cat(" .. ", b.entries.back().param->name);
  return s + "]";
}

}  // namespace

std::vector<Bucket> plan_buckets(const ParamStore& store, const BucketOptions& options) {
  check<ConfigError>(options.bucket_bytes >= 4096, "bucket_bytes = ", options.bucket_bytes, " must be >= 4096");
  check_precision(options.precision);
  const auto element = static_cast<int64_t>(size_of(options.precision.gradients));
  const auto position = forward_positions(store, options);
  std::vector<Param*> order;
  for (const auto& p : store.params()) {
    if (p->trainable) order.push_back(p.get());
  }
  std::sort(order.begin(), order.end(),
            [&](const Param* a, const Param* b) { return position.at(a) > position.at(b); });

  using Key = std::tuple<int, bool, float>;
  std::map<Key, Bucket> open;
  std::vector<Bucket> closed;
  for (Param* p : order) {
    const bool decay = p->decay && p->frozen_rows_begin < 0;
    const Key key{p->group, decay, p->lr_scale};
    Bucket& b = open[key];
    const int64_t numel = p->value.numel();
    if (!b.entries.empty() && (b.numel + padded(numel)) * element > options.bucket_bytes) {
      closed.push_back(std::move(b));
      b = Bucket{};
    }
    std::tie(b.group, b.decay, b.lr_scale) = key;
    b.entries.push_back({p, b.numel, numel});
    b.numel += padded(numel);
  }
  for (auto& [key, b] : open) closed.push_back(std::move(b));
  // A bucket can go when its last gradient is there: that of the parameter used earliest in forward.
  std::sort(closed.begin(), closed.end(), [&](const Bucket& a, const Bucket& b) {
    return position.at(a.entries.back().param) > position.at(b.entries.back().param);
  });
  for (size_t i = 0; i < closed.size(); ++i) {
    closed[i].index = static_cast<int>(i);
    closed[i].precision = options.precision;
    closed[i].what = bucket_name(closed[i]);
  }
  return closed;
}

void materialise(Bucket& b, ProcessGroup& comm) {
  const auto zeros = [&](MemoryKind kind) {
    const MemoryScope memory(kind);
    return Tensor::zeros({b.numel}, b.precision.master);
  };
  b.value = zeros(MemoryKind::kWeights);
  b.m = zeros(MemoryKind::kOptimizer), b.v = zeros(MemoryKind::kOptimizer);
  {
    const MemoryScope memory(MemoryKind::kGradients);
    b.grad = comm.shared_buffer({b.numel}, b.precision.gradients);
  }
  for (const Bucket::Entry& e : b.entries) {
    Param& p = *e.param;
    check_shape(p.value.dtype() == b.precision.master, "[bucket] parameter '", p.name, "' is ", p.value.dtype(),
                " but trainable parameters are ", b.precision.master);
    const Tensor home = b.value_of(e);
    if (home.device() == Device::kCpu && e.numel > 0) {
      std::memcpy(home.raw(), p.value.raw(), static_cast<size_t>(home.nbytes()));
    }
    p.value = home;
    p.grad = b.grad_of(e);
  }
}

}  // namespace tpo
