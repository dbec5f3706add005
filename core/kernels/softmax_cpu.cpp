// Softmax. Three passes over a row in the first-level cache: maximum, exponentials with their sum, division.
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/pointwise_math.h"
#include "core/kernels/softmax.h"
#include "core/stream.h"

namespace tpo {

void run(const SoftmaxFwd& k, Cpu, Stream&) {
  parallel_for(k.rows, row_grain(k.cols, kHeavyGrain), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* x = k.x + r * k.cols;
      float* y = k.y + r * k.cols;
      float top = x[0], sum = 0;
#pragma omp simd reduction(max : top)
      for (int64_t c = 0; c < k.cols; ++c) top = x[c] > top ? x[c] : top;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < k.cols; ++c) {
        const float e = math::exp(x[c] - top);
        y[c] = e;
        sum += e;
      }
      const float inverse = 1.0f / sum;
#pragma omp simd
      for (int64_t c = 0; c < k.cols; ++c) y[c] *= inverse;
    }
  });
}

void run(const SoftmaxBwd& k, Cpu, Stream&) {
  parallel_for(k.rows, row_grain(k.cols, kHeavyGrain), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float *y = k.y + r * k.cols, *dy = k.dy + r * k.cols;
      float* dx = k.dx + r * k.cols;
      float dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t c = 0; c < k.cols; ++c) dot += y[c] * dy[c];
#pragma omp simd
      for (int64_t c = 0; c < k.cols; ++c) dx[c] = y[c] * (dy[c] - dot);
    }
  });
}

}  // namespace tpo
