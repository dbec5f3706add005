// Dice loss. Rows are few and long (masks), so that threads share chunks of rows; sums of chunks are added in order, in
// double.
#include <algorithm>

#include "core/kernels/dice.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/pointwise_math.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr int64_t kGrain = 2;  // chunks of 4096 sigmoids

// Calls fn(row, chunk, begin, end) for every chunk, on threads.
template <class Fn>
void each_chunk(const DiceLoss& k, const Fn& fn) {
  const int64_t chunks = k.chunks();
  parallel_for(k.rows * chunks, kGrain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = i / chunks, begin = (i % chunks) * DiceLoss::kChunk;
      fn(row, i, row * k.cols + begin, row * k.cols + std::min(k.cols, begin + DiceLoss::kChunk));
    }
  });
}

float weight_of(const DiceLoss& k, int64_t row) { return k.weight ? k.weight[row] : 1.0f; }

template <class T>
void chunk_sums(const DiceLoss& k, int64_t begin, int64_t end, float* out) {
  const T *x = static_cast<const T*>(k.x), *target = static_cast<const T*>(k.target);
  float both = 0, p_sum = 0, t_sum = 0;
#pragma omp simd reduction(+ : both, p_sum, t_sum)
  for (int64_t i = begin; i < end; ++i) {
    const float p = math::sigmoid(widen(x[i])), t = widen(target[i]);
    both += p * t;
    p_sum += p;
    t_sum += t;
  }
  out[0] = both, out[1] = p_sum, out[2] = t_sum;
}

// dx = (a target + b) p (1 - p)
template <class T>
void chunk_gradient(const DiceLoss& k, int64_t begin, int64_t end, float a, float b) {
  const T *x = static_cast<const T*>(k.x), *target = static_cast<const T*>(k.target);
  T* dx = static_cast<T*>(k.dx);
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const float p = math::sigmoid(widen(x[i]));
    dx[i] = narrow<T>((a * widen(target[i]) + b) * p * (1.0f - p));
  }
}

// Adds a row's chunks, returns its loss and leaves a and b of chunk_gradient in the row's first sums.
double finish_row(const DiceLoss& k, int64_t row) {
  float* sums = k.scratch + row * k.chunks() * DiceLoss::kSums;
  double both = 0, all = 0;
  for (int64_t c = 0; c < k.chunks(); ++c) {
    const float* s = sums + c * DiceLoss::kSums;
    both += static_cast<double>(s[0]);
    all += static_cast<double>(s[1]) + static_cast<double>(s[2]);
  }
  const double eps = static_cast<double>(k.eps), above = 2 * both + eps, below = all + eps;
  const double factor = static_cast<double>(k.scale) * static_cast<double>(weight_of(k, row));
  sums[0] = static_cast<float>(-2 * factor / below);
  sums[1] = static_cast<float>(factor * above / (below * below));
  return factor * (1 - above / below);
}

}  // namespace

void run(const DiceLoss& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    each_chunk(k, [&](int64_t row, int64_t chunk, int64_t begin, int64_t end) {
      if (weight_of(k, row) != 0) chunk_sums<T>(k, begin, end, k.scratch + chunk * DiceLoss::kSums);
    });
    double loss = 0;
    for (int64_t row = 0; row < k.rows; ++row)
      if (weight_of(k, row) != 0) loss += finish_row(k, row);
    *k.loss = static_cast<float>(loss);
    if (k.dx == nullptr) return;
    each_chunk(k, [&](int64_t row, int64_t, int64_t begin, int64_t end) {
      const float* ab = k.scratch + row * k.chunks() * DiceLoss::kSums;
      if (weight_of(k, row) != 0) return chunk_gradient<T>(k, begin, end, ab[0], ab[1]);
      std::fill(static_cast<T*>(k.dx) + begin, static_cast<T*>(k.dx) + end, narrow<T>(0.0f));
    });
  });
}

}  // namespace tpo
