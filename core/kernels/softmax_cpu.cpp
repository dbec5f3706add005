// Softmax. Three passes over a row in the first-level cache: maximum, exponentials with their sum, division. A bf16 row
// is widened once.
#include <cmath>
#include <vector>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/pointwise_math.h"
#include "core/kernels/softmax.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

// x and y may be the same row.
void softmax_row(const float* x, float* y, int64_t cols, bool log) {
  float top = x[0], sum = 0;
#pragma omp simd reduction(max : top)
  for (int64_t c = 0; c < cols; ++c) top = x[c] > top ? x[c] : top;
  if (log) {
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < cols; ++c) sum += math::exp(x[c] - top);
    const float log_sum = std::log(sum);
#pragma omp simd
    for (int64_t c = 0; c < cols; ++c) y[c] = (x[c] - top) - log_sum;
    return;
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < cols; ++c) {
    const float e = math::exp(x[c] - top);
    y[c] = e;
    sum += e;
  }
  const float inverse = 1.0f / sum;
#pragma omp simd
  for (int64_t c = 0; c < cols; ++c) y[c] *= inverse;
}

template <class T>
void softmax_row_bwd(const T* y, const T* dy, T* dx, int64_t cols) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t c = 0; c < cols; ++c) dot += widen(y[c]) * widen(dy[c]);
#pragma omp simd
  for (int64_t c = 0; c < cols; ++c) dx[c] = narrow<T>(widen(y[c]) * (widen(dy[c]) - dot));
}

template <class T>
void log_softmax_row_bwd(const T* y, const T* dy, T* dx, int64_t cols) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < cols; ++c) sum += widen(dy[c]);
#pragma omp simd
  for (int64_t c = 0; c < cols; ++c) dx[c] = narrow<T>(widen(dy[c]) - math::exp(widen(y[c])) * sum);
}

}  // namespace

void run(const SoftmaxFwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.cols, kHeavyGrain), [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(k.dtype == DType::kF32 ? 0 : static_cast<size_t>(k.cols));
      for (int64_t r = begin; r < end; ++r) {
        T* out = static_cast<T*>(k.y) + r * k.cols;
        const float* x = read_row(static_cast<const T*>(k.x) + r * k.cols, scratch.data(), k.cols);
        float* y = write_row(out, scratch.data());
        softmax_row(x, y, k.cols, k.log);
        finish_row(out, y, k.cols);
      }
    });
  });
}

void run(const SoftmaxBwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.cols, kHeavyGrain), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T *y = static_cast<const T*>(k.y) + r * k.cols, *dy = static_cast<const T*>(k.dy) + r * k.cols;
        T* dx = static_cast<T*>(k.dx) + r * k.cols;
        k.log ? log_softmax_row_bwd(y, dy, dx, k.cols) : softmax_row_bwd(y, dy, dx, k.cols);
      }
    });
  });
}

}  // namespace tpo
