// Rows by index: copies and ordered sums.
#include <algorithm>
#include <cstring>

#include "core/kernels/embedding.h"
#include "core/kernels/pointwise_loop.h"

namespace tpo {

namespace {

void copy_row(float* dst, const float* src, int64_t cols) {
  std::memcpy(dst, src, static_cast<size_t>(cols) * sizeof(float));
}

}  // namespace

void run(const GatherRows& k, Cpu, Stream&) {
  parallel_for(k.n, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) copy_row(k.y + n * k.cols, k.table + k.ids[n] * k.cols, k.cols);
  });
}

void run(const ScatterAddRows& k, Cpu, Stream&) {
  const int64_t grain = std::max<int64_t>(64, kLightGrain * kLoopBlock / std::max<int64_t>(1, k.n));
  parallel_for(k.cols, grain, [&](int64_t begin, int64_t end) {
    for (int64_t n = 0; n < k.n; ++n) {
      const float* src = k.dy + n * k.cols;
      float* dst = k.out + k.ids[n] * k.cols;
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) dst[c] += src[c];
    }
  });
}

void run(const SetRows& k, Cpu, Stream&) {
  parallel_for(k.n, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      float* dst = k.y + k.ids[n] * k.cols;
      if (k.src != nullptr) {
        copy_row(dst, k.src + n * k.cols, k.cols);
      } else {
        std::fill(dst, dst + k.cols, 0.0f);
      }
    }
  });
}

void run(const BroadcastRows& k, Cpu, Stream&) {
  parallel_for(k.n, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) copy_row(k.y + n * k.cols, k.row, k.cols);
  });
}

}  // namespace tpo
