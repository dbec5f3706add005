// Reductions. The order of sums over an array is that of sum_chunks.h.
#include <algorithm>
#include <bit>
#include <cmath>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/reduce.h"
#include "core/kernels/storage.h"
#include "core/kernels/sum_chunks.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr int64_t kPoolTile = 512;  // columns summed at a time, 2 KiB: enough of a row for the prefetcher

// Blocks of 1024 in fp32, their sums in double.
template <class T>
double sum_blocks(const T* x, int64_t begin, int64_t end) {
  double total = 0;
  for (int64_t b = begin; b < end; b += kLoopBlock) {
    const int64_t stop = std::min(end, b + kLoopBlock);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = b; i < stop; ++i) sum += widen(x[i]);
    total += static_cast<double>(sum);
  }
  return total;
}

// As vector code, which std::fill is not at -O2.
template <class T>
void fill(T* y, int64_t n, T value) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = value;
}

}  // namespace

void run(const SumAll& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    const T* x = static_cast<const T*>(k.x);
    *k.out = static_cast<float>(
        sum_chunks<double>(k.n, [&](int64_t begin, int64_t end) { return sum_blocks(x, begin, end); }));
  });
}

void run(const SumLast& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
      const T* x = static_cast<const T*>(k.x);
      for (int64_t r = begin; r < end; ++r)
        static_cast<T*>(k.y)[r] = narrow<T>(k.alpha * static_cast<float>(sum_blocks(x + r * k.cols, 0, k.cols)));
    });
  });
}

void run(const RepeatLast& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
      T* y = static_cast<T*>(k.y);
      for (int64_t r = begin; r < end; ++r)
        fill(y + r * k.cols, k.cols, narrow<T>(k.alpha * widen(static_cast<const T*>(k.x)[r])));
    });
  });
}

void run(const FillWith& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    const T v = narrow<T>(*k.value);
    T* y = static_cast<T*>(k.y);
    for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) { fill(y + begin, end - begin, v); });
  });
}

void run(const PoolRowsFwd& k, Cpu, Stream&) {
  const int64_t tiles = (k.cols + kPoolTile - 1) / kPoolTile;
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.out_rows * tiles, row_grain(k.group * kPoolTile, kLightGrain), [&](int64_t begin, int64_t end) {
      float sums[kPoolTile];
      for (int64_t t = begin; t < end; ++t) {
        const int64_t o = t / tiles, c0 = t % tiles * kPoolTile, width = std::min(kPoolTile, k.cols - c0);
        std::fill_n(sums, width, 0.0f);
        for (int64_t g = 0; g < k.group; ++g) {
          const T* x = static_cast<const T*>(k.x) + (o * k.group + g) * k.cols + c0;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) sums[c] += widen(x[c]);
        }
        T* y = static_cast<T*>(k.y) + o * k.cols + c0;
        const float alpha = k.alpha;
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) y[c] = narrow<T>(alpha * sums[c]);
      }
    });
  });
}

void run(const PoolRowsBwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.out_rows * k.group, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
      const float alpha = k.alpha;
      for (int64_t r = begin; r < end; ++r) {
        const T* dy = static_cast<const T*>(k.dy) + r / k.group * k.cols;
        T* dx = static_cast<T*>(k.dx) + r * k.cols;
#pragma omp simd
        for (int64_t c = 0; c < k.cols; ++c) dx[c] = narrow<T>(alpha * widen(dy[c]));
      }
    });
  });
}

void run(const ArgmaxRows& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* x = static_cast<const T*>(k.x) + r * k.cols;
        float top = widen(x[0]);
        int bad = 0;
#pragma omp simd reduction(max : top) reduction(| : bad)
        for (int64_t c = 0; c < k.cols; ++c) {
          const float v = widen(x[c]);
          top = v > top ? v : top;
          bad |= static_cast<int>(v != v);
        }
        const auto is_top = [&](T v) { return bad != 0 ? std::isnan(widen(v)) : widen(v) == top; };
        k.out[r] = static_cast<int32_t>(std::find_if(x, x + k.cols, is_top) - x);
      }
    });
  });
}

void run(const SumSquares& k, Cpu, Stream&) {
  *k.out = sum_chunks<double>(k.n, [&](int64_t begin, int64_t end) {
    const float* x = k.x;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return sum;
  });
}

void run(const CountNonFinite& k, Cpu, Stream&) {
  *k.out = sum_chunks<int64_t>(k.n, [&](int64_t begin, int64_t end) {
    const float* x = k.x;  // a local: the vectoriser gathers through a captured pointer
    int32_t count = 0;     // a chunk has fewer than 2^31 elements up to 2^38 in all
#pragma omp simd reduction(+ : count)
    for (int64_t i = begin; i < end; ++i)
      count += static_cast<int32_t>((std::bit_cast<uint32_t>(x[i]) & 0x7f800000u) == 0x7f800000u);
    return static_cast<int64_t>(count);
  });
}

}  // namespace tpo
