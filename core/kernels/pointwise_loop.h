#pragma once
// The loop of elementwise CPU kernels. Threads get whole blocks, so that which elements go through the vector body and
// which through the scalar tail, and with it the last bit of every result, does not depend on the thread count.
#include <algorithm>
#include <cstdint>

#include "core/parallel_for.h"

namespace tpo {

inline constexpr int64_t kLoopBlock = 1024;  // elements; a multiple of every vector width

// Elements a thread should get at least: 64 Ki of a copy take about 14 us, a parallel region 2 to 5 us.
inline constexpr int64_t kLightGrain = 64;  // blocks, for additions and products
inline constexpr int64_t kHeavyGrain = 8;   // blocks, where an exponential is in the loop

// Calls body(begin, end) over disjoint pieces of [0, n); every begin is a multiple of kLoopBlock.
template <class Body>
void for_elements(int64_t n, int64_t grain_blocks, const Body& body) {
  const int64_t blocks = (n + kLoopBlock - 1) / kLoopBlock;
  if (blocks <= grain_blocks) {  // the common case of small tensors: no std::function is made
    if (n > 0) body(int64_t{0}, n);
    return;
  }
  parallel_for(blocks, grain_blocks,
               [&](int64_t begin, int64_t end) { body(begin * kLoopBlock, std::min(n, end * kLoopBlock)); });
}

// Rows a thread should get at least when a row has `cols` elements.
inline int64_t row_grain(int64_t cols, int64_t grain_blocks) {
  return std::max<int64_t>(1, grain_blocks * kLoopBlock / std::max<int64_t>(1, cols));
}

}  // namespace tpo
