#pragma once
// Sums in an order that the thread count does not change: an array is cut into at most kChunks chunks by its length
// alone, each chunk is summed by one thread in a fixed order, and the partial results are added in chunk order.
#include <algorithm>
#include <array>
#include <cstdint>

#include "core/kernels/pointwise_loop.h"

namespace tpo {

inline constexpr int64_t kChunks = 128;

// Sum of part(begin, end) over chunks of [0, n), every begin a multiple of `unit`; a thread gets `grain` units at
// least.
template <class T, class Part>
T sum_chunks(int64_t n, const Part& part, int64_t unit = kLoopBlock, int64_t grain = kLightGrain) {
  const int64_t units = (n + unit - 1) / unit, per = std::max<int64_t>(1, (units + kChunks - 1) / kChunks);
  const int64_t chunk = per * unit, chunks = (n + chunk - 1) / chunk;
  std::array<T, kChunks> sums{};
  parallel_for(chunks, std::max<int64_t>(1, grain / per), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sums[static_cast<size_t>(i)] = part(i * chunk, std::min(n, (i + 1) * chunk));
  });
  T total = 0;
  for (int64_t i = 0; i < chunks; ++i) total += sums[static_cast<size_t>(i)];
  return total;
}

}  // namespace tpo
