#include "checkpoint/diff.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <type_traits>

#include "checkpoint/shards.h"
#include "core/error.h"

namespace tpo {
namespace {

using checkpoint::Manifest;
using checkpoint::TensorEntry;

constexpr int64_t kSlab = 4 << 20;  // bytes of each side; with a Shards' buffer each: 9 MiB

struct Side {
  explicit Side(const std::string& folder) : manifest(read_checkpoint_manifest(folder)), shards(manifest, folder) {
    check_shard_files(manifest, folder);
    for (const TensorEntry& t : manifest.tensors()) tensors[t.name()] = &t;
    for (const PieceRef& ref : in_file_order(manifest)) shards.check_piece(ref);
    for (const checkpoint::Counter& c : manifest.counters()) counters[c.name()] = c.value();
  }
  Manifest manifest;
  Shards shards;
  std::map<std::string, const TensorEntry*> tensors;
  std::map<std::string, int64_t> counters;
};

std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", v);
  return text;
}

template <class T>
auto distance(T a, T b) {
  if constexpr (std::is_integral_v<T>) {  // the difference of two int64_t does not fit one
    return a > b ? static_cast<uint64_t>(a) - static_cast<uint64_t>(b)
                 : static_cast<uint64_t>(b) - static_cast<uint64_t>(a);
  } else {
    return std::fabs(static_cast<double>(static_cast<float>(a)) - static_cast<double>(static_cast<float>(b)));
  }
}
// Exact: nine digits tell any two floats apart.
template <class T>
std::string text_of_value(T v) {
  if constexpr (std::is_integral_v<T>) return std::to_string(v);
  return number(static_cast<double>(static_cast<float>(v)));
}

// Elements [first, first + n) of the tensor, of which some differ.
template <class T>
void count(const void* bytes_a, const void* bytes_b, int64_t first, int64_t n, TensorDifference& d) {
  const T *a = static_cast<const T*>(bytes_a), *b = static_cast<const T*>(bytes_b);
  for (int64_t i = 0; i < n; ++i) {
    if (std::memcmp(a + i, b + i, sizeof(T)) == 0) continue;
    if (d.elements++ == 0) d.first = first + i, d.first_a = text_of_value(a[i]), d.first_b = text_of_value(b[i]);
    if constexpr (std::is_integral_v<T>) {
      d.largest_whole = std::max(d.largest_whole, distance(a[i], b[i]));
      d.largest = static_cast<double>(d.largest_whole);
    } else {
      const double far = distance(a[i], b[i]);
      if (!std::isnan(d.largest) && !(far <= d.largest)) d.largest = far;
    }
  }
}

void count(DType dtype, const void* a, const void* b, int64_t first, int64_t n, TensorDifference& d) {
  switch (dtype) {
    case DType::kF32:
      return count<float>(a, b, first, n, d);
    case DType::kBF16:
      return count<BF16>(a, b, first, n, d);
    case DType::kI32:
      return count<int32_t>(a, b, first, n, d);
    case DType::kI64:
      return count<int64_t>(a, b, first, n, d);
    case DType::kU8:
      return count<uint8_t>(a, b, first, n, d);
  }
}

TensorDifference compare(Side& a, const TensorEntry& ta, Side& b, const TensorEntry& tb) {
  TensorDifference d;
  d.name = ta.name(), d.dtype = dtype_of(ta), d.full = shape_of(ta);
  const int64_t size = static_cast<int64_t>(size_of(d.dtype)), numel = d.full.numel();
  // As int64_t, for the alignment of every element type.
  std::vector<int64_t> slab_a(static_cast<size_t>(std::min(kSlab, numel * size) / 8 + 1)), slab_b(slab_a.size());
  for (int64_t at = 0; at < numel; at += kSlab / size) {
    const int64_t n = std::min(kSlab / size, numel - at);
    const auto bytes_a = std::as_writable_bytes(std::span(slab_a)).first(static_cast<size_t>(n * size));
    const auto bytes_b = std::as_writable_bytes(std::span(slab_b)).first(static_cast<size_t>(n * size));
    a.shards.read_run(ta, at, bytes_a);
    b.shards.read_run(tb, at, bytes_b);
    if (std::memcmp(bytes_a.data(), bytes_b.data(), bytes_a.size()) != 0) {
      count(d.dtype, bytes_a.data(), bytes_b.data(), at, n, d);
    }
  }
  return d;
}

template <class V>
std::vector<std::string> only_in(const std::map<std::string, V>& a, const std::map<std::string, V>& b,
                                 const std::string& prefix, std::vector<std::string> out = {}) {
  for (const auto& [name, value] : a) {
    if (!b.count(name)) out.push_back(prefix + name);
  }
  return out;
}

Shape index_of(int64_t element, const Shape& full) {
  std::vector<int64_t> reversed;
  for (int i = full.rank() - 1; i >= 0; --i) reversed.push_back(element % full[i]), element /= full[i];
  Shape index;
  for (auto it = reversed.rbegin(); it != reversed.rend(); ++it) index.push_back(*it);
  return index;
}

}  // namespace

CheckpointDifference diff(const std::string& folder_a, const std::string& folder_b) {
  Side a(folder_a), b(folder_b);
  CheckpointDifference out;
  out.only_a = only_in(a.tensors, b.tensors, "", only_in(a.counters, b.counters, "counter:"));
  out.only_b = only_in(b.tensors, a.tensors, "", only_in(b.counters, a.counters, "counter:"));
  for (const auto& [name, value] : a.counters) {
    const auto it = b.counters.find(name);
    if (it != b.counters.end() && it->second != value)
      out.counters.push_back(cat(name, " ", value, " and ", it->second));
  }
  for (const auto& [name, ta] : a.tensors) {
    const auto it = b.tensors.find(name);
    if (it == b.tensors.end()) continue;
    const TensorEntry& tb = *it->second;
    if (dtype_of(*ta) != dtype_of(tb) || shape_of(*ta) != shape_of(tb)) {
      out.reshaped.push_back(cat(name, " ", ta->dtype(), shape_of(*ta), " and ", tb.dtype(), shape_of(tb)));
      continue;
    }
    ++out.compared;
    TensorDifference d = compare(a, *ta, b, tb);
    if (d.elements > 0) out.tensors.push_back(std::move(d));
  }
  return out;
}

std::vector<std::string> lines_of(const CheckpointDifference& difference) {
  std::vector<std::string> lines;
  for (const std::string& name : difference.only_a) lines.push_back("only in a: " + name);
  for (const std::string& name : difference.only_b) lines.push_back("only in b: " + name);
  for (const std::string& text : difference.reshaped) lines.push_back("other shape or type: " + text);
  for (const std::string& text : difference.counters) lines.push_back("counter " + text);
  for (const TensorDifference& d : difference.tensors) {
    lines.push_back(
        cat(d.name, " ", d.dtype, d.full, ": ", d.elements, " of ", d.full.numel(), " elements differ, the first at ",
            index_of(d.first, d.full), ": ", d.first_a, " and ", d.first_b, "; largest difference ",
            (d.dtype == DType::kF32 || d.dtype == DType::kBF16 ? number(d.largest) : std::to_string(d.largest_whole))));
  }
  return lines;
}

}  // namespace tpo
