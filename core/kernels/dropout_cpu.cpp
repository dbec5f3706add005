#include <algorithm>

#include "core/kernels/dropout.h"
#include "core/kernels/philox.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr int64_t kBlocks = 32;  // Philox blocks a call, 128 columns

template <class T>
void drop(const Dropout& k, int64_t begin, int64_t end) {
  const int32_t limit = drop_limit(k.p);
  const float keep = 1.0f / (1.0f - k.p);
  uint32_t words[4 * kBlocks];
  for (int64_t r = begin; r < end; ++r) {
    const T* x = static_cast<const T*>(k.x) + r * k.cols;
    T* y = static_cast<T*>(k.y) + r * k.cols;
    if (k.whole_rows) {
      const uint32_t word = philox(k.key, 0, static_cast<uint64_t>(k.row_ids[r]))[0];
      const bool kept = static_cast<int32_t>(word >> 8) >= limit;
#pragma omp simd
      for (int64_t c = 0; c < k.cols; ++c) y[c] = narrow<T>(kept ? widen(x[c]) * keep : 0.0f);
      continue;
    }
    // The first block may begin before the columns held here.
    for (int64_t c0 = -(k.first_col % 4); c0 < k.cols; c0 += 4 * kBlocks) {
      philox_blocks(k.key, static_cast<uint64_t>((k.first_col + c0) / 4), static_cast<uint64_t>(k.row_ids[r]), kBlocks,
                    words);
      const int64_t skip = std::max<int64_t>(0, -c0), width = std::min(4 * kBlocks, k.cols - c0);
#pragma omp simd
      for (int64_t c = skip; c < width; ++c)
        y[c0 + c] = narrow<T>(static_cast<int32_t>(words[c] >> 8) >= limit ? widen(x[c0 + c]) * keep : 0.0f);
    }
  }
}

}  // namespace

void run(const Dropout& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.cols, kHeavyGrain), [&](int64_t begin, int64_t end) { drop<T>(k, begin, end); });
  });
}

}  // namespace tpo
