// PReLU and softplus. The backward of PReLU makes both gradients in one pass.
#include <algorithm>

#include "core/kernels/pointwise_math.h"
#include "core/kernels/prelu.h"
#include "core/kernels/storage.h"
#include "core/kernels/sum_chunks.h"
#include "core/stream.h"

namespace tpo {

namespace {

TPO_INLINE float leak(float x, float positive, float slope) { return x > 0.0f ? positive : slope * positive; }

// Gradients of n elements under one slope each (step 1) or the same (step 0). Two loops over what is in cache, the sum
// first: dx may be dy, and the sum has the same bits whether or not dx is wanted.
template <class T>
void prelu_dx(const T* x, const T* dy, const T* slope, int64_t step, T* dx, int64_t n) {
  if (step == 0) {
    const float a = widen(*slope);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) dx[i] = narrow<T>(leak(widen(x[i]), widen(dy[i]), a));
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) dx[i] = narrow<T>(leak(widen(x[i]), widen(dy[i]), widen(slope[i])));
}

template <class T>
void shared_slope(const PreluBwd& k) {
  const T *slope = static_cast<const T*>(k.slope), *all_x = static_cast<const T*>(k.x);
  const T* all_dy = static_cast<const T*>(k.dy);
  const double total = sum_chunks<double>(k.rows * k.cols, [&](int64_t begin, int64_t end) {
    double part = 0;
    for (int64_t b = begin; b < end; b += kLoopBlock) {
      const int64_t n = std::min(end - b, kLoopBlock);
      const T *x = all_x + b, *dy = all_dy + b;
      if (k.dslope) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; ++i) sum += widen(x[i]) > 0.0f ? 0.0f : widen(x[i]) * widen(dy[i]);
        part += static_cast<double>(sum);
      }
      if (k.dx) prelu_dx(x, dy, slope, 0, static_cast<T*>(k.dx) + b, n);
    }
    return part;
  });
  if (k.dslope) *k.dslope = static_cast<float>(total) + (k.accumulate ? *k.dslope : 0.0f);
}

// A thread owns columns, so that every slope's sum runs in the order of rows.
template <class T>
void column_slopes(const PreluBwd& k) {
  const int64_t grain = std::max<int64_t>(64, (int64_t{1} << 16) / std::max<int64_t>(1, k.rows));
  parallel_for(k.cols, grain, [&](int64_t begin, int64_t end) {
    if (k.dslope && !k.accumulate) std::fill(k.dslope + begin, k.dslope + end, 0.0f);
    const int64_t n = end - begin;
    for (int64_t r = 0; r < k.rows; ++r) {
      const int64_t at = r * k.cols + begin;
      const T *x = static_cast<const T*>(k.x) + at, *dy = static_cast<const T*>(k.dy) + at;
      if (k.dslope) {
        float* sums = k.dslope + begin;
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) sums[c] += widen(x[c]) > 0.0f ? 0.0f : widen(x[c]) * widen(dy[c]);
      }
      if (k.dx) prelu_dx(x, dy, static_cast<const T*>(k.slope) + begin, 1, static_cast<T*>(k.dx) + at, n);
    }
  });
}

}  // namespace

void run(const PreluFwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    const T* slope = static_cast<const T*>(k.slope);
    if (k.slopes == 1)
      return for_elements(k.rows * k.cols, kLightGrain, [&](int64_t begin, int64_t end) {
        const T* x = static_cast<const T*>(k.x);
        T* y = static_cast<T*>(k.y);
        const float a = widen(*slope);
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) y[i] = narrow<T>(leak(widen(x[i]), widen(x[i]), a));
      });
    parallel_for(k.rows, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* x = static_cast<const T*>(k.x) + r * k.cols;
        T* y = static_cast<T*>(k.y) + r * k.cols;
#pragma omp simd
        for (int64_t c = 0; c < k.cols; ++c) y[c] = narrow<T>(leak(widen(x[c]), widen(x[c]), widen(slope[c])));
      }
    });
  });
}

void run(const PreluBwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() { k.slopes == 1 ? shared_slope<T>(k) : column_slopes<T>(k); });
}

void run(const SoftplusFwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    for_elements(k.n, kHeavyGrain, [&](int64_t begin, int64_t end) {
      const T* x = static_cast<const T*>(k.x);
      T* y = static_cast<T*>(k.y);
      const float beta = k.beta, inverse = 1.0f / k.beta, threshold = k.threshold;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float v = widen(x[i]), z = beta * v, soft = inverse * math::softplus(z);
        y[i] = narrow<T>(z > threshold ? v : soft);
      }
    });
  });
}

void run(const SoftplusBwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    for_elements(k.n, kHeavyGrain, [&](int64_t begin, int64_t end) {
      const T *x = static_cast<const T*>(k.x), *dy = static_cast<const T*>(k.dy);
      T* dx = static_cast<T*>(k.dx);
      const float beta = k.beta, threshold = k.threshold;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float z = beta * widen(x[i]), s = math::sigmoid(z);
        dx[i] = narrow<T>((z > threshold ? 1.0f : s) * widen(dy[i]));
      }
    });
  });
}

}  // namespace tpo
