// Cross-entropy over chunks of rows that have a target. A chunk's logits are overwritten by their gradient and feed the
// products for dx and dw while they are in cache. Losses are summed in the order of rows, in double.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/kernels/cross_entropy.h"
#include "core/kernels/gemm.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/simd.h"
#include "core/kernels/storage.h"

namespace tpo {

namespace {

using simd::kLanes;
using simd::Vec;

// Replaces logits by scale * (softmax - onehot) if `gradient`; returns -log softmax[target].
float softmax_row(float* logits, int64_t v, int64_t target, float scale, bool gradient) {
  const float picked = logits[target];
  const int64_t body = v / kLanes * kLanes;
  Vec m(logits[0]);
  for (int64_t j = 0; j < body; j += kLanes) m = max(m, Vec::load(logits + j));
  float top = simd::hmax(m);
  for (int64_t j = body; j < v; ++j) top = std::max(top, logits[j]);
  Vec sums = Vec::zero();
  for (int64_t j = 0; j < body; j += kLanes) {
    const Vec e = simd::exp(Vec::load(logits + j) - Vec(top));
    sums += e;
    if (gradient) e.store(logits + j);
  }
  float sum = simd::hsum(sums);
  for (int64_t j = body; j < v; ++j) {
    const float e = std::exp(logits[j] - top);
    sum += e;
    if (gradient) logits[j] = e;
  }
  if (gradient) {
    const float f = scale / sum;
#pragma omp simd
    for (int64_t j = 0; j < v; ++j) logits[j] *= f;
    logits[target] -= scale;
  }
  return top + std::log(sum) - picked;
}

// A chunk's rows of one operand: in place when they are consecutive, else gathered into scratch.
struct Rows {
  const int32_t* index;  // (count) rows of the operand, rising
  int64_t count;
  bool consecutive() const { return index[count - 1] - index[0] == count - 1; }

  template <class T>
  const T* gather(const T* from, int64_t cols, T* scratch) const {
    if (consecutive()) return from + index[0] * cols;
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(scratch + i * cols, from + index[i] * cols, static_cast<size_t>(cols) * sizeof(T));
    return scratch;
  }
  // Where a product may write these rows, and the copy back if that was scratch.
  template <class T>
  T* target(T* to, int64_t cols, T* scratch) const {
    return consecutive() ? to + index[0] * cols : scratch;
  }
  template <class T>
  void scatter(const T* from, T* to, int64_t cols) const {
    if (consecutive()) return;
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(to + index[i] * cols, from + i * cols, static_cast<size_t>(cols) * sizeof(T));
  }
};

// Products with one operand pair: (x, w, c) or (xa, b, r).
template <class T>
struct Operand {
  const T *x, *w;
  T* dx;
  float* dw;
  int64_t cols;
  T* gathered;  // (chunk, cols)
  T* dgathered;

  void logits(const Rows& rows, float* out, int64_t v, bool add, Stream& stream) const {
    if (cols == 0) return;
    const T* from = rows.gather(x, cols, gathered);
    run(Gemm{from, w, out, rows.count, v, cols, false, true, 1.0f, add ? 1.0f : 0.0f, DTypeOf<T>::value}, Cpu{},
        stream);
  }
  void gradients(const Rows& rows, const T* dlogits, int64_t v, bool first, Stream& stream) const {
    constexpr DType kStored = DTypeOf<T>::value;
    if (dx != nullptr) {
      T* to = rows.target(dx, cols, dgathered);
      run(Gemm{dlogits, w, to, rows.count, cols, v, false, false, 1.0f, 0.0f, kStored, kStored}, Cpu{}, stream);
      rows.scatter(to, dx, cols);
    }
    if (dw != nullptr) {
      const T* from = rows.consecutive() ? x + rows.index[0] * cols : gathered;
      run(Gemm{dlogits, from, dw, v, cols, rows.count, true, false, 1.0f, first ? 0.0f : 1.0f, kStored}, Cpu{}, stream);
    }
  }
};

template <class T>
void zero(T* p, int64_t n) {
  if (p != nullptr) std::fill(p, p + n, T());
}

template <class T>
void fused(const VocabCrossEntropy& k, Stream& stream) {
  std::vector<int32_t> valid;
  for (int64_t i = 0; i < k.n; ++i)
    if (k.targets[i] >= 0) valid.push_back(static_cast<int32_t>(i));
  const auto count = static_cast<int64_t>(valid.size());
  if (count < k.n) zero(static_cast<T*>(k.dx), k.n * k.c), zero(static_cast<T*>(k.dxa), k.n * k.r);
  if (count == 0) zero(k.dw, k.v * k.c), zero(k.db, k.v * k.r);

  float* next = k.scratch;
  const auto take = [&next](int64_t floats) { return std::exchange(next, next + floats); };
  const auto take_rows = [&](int64_t cols) { return reinterpret_cast<T*>(take(k.chunk * cols)); };
  float *logits = take(k.chunk * k.v), *losses = take(k.chunk);
  T* dlogits = std::is_same_v<T, float> ? reinterpret_cast<T*>(logits) : take_rows((k.v + 1) / 2);
  const Operand<T> main{static_cast<const T*>(k.x),
                        static_cast<const T*>(k.w),
                        static_cast<T*>(k.dx),
                        k.dw,
                        k.c,
                        take_rows(k.c),
                        take_rows(k.c)};
  const Operand<T> low{static_cast<const T*>(k.xa),
                       static_cast<const T*>(k.b),
                       static_cast<T*>(k.dxa),
                       k.db,
                       k.r,
                       take_rows(k.r),
                       take_rows(k.r)};
  const bool gradient = k.dx || k.dw || k.dxa || k.db;

  double total = 0;
  for (int64_t begin = 0; begin < count; begin += k.chunk) {
    const Rows rows{valid.data() + begin, std::min(k.chunk, count - begin)};
    main.logits(rows, logits, k.v, false, stream);
    low.logits(rows, logits, k.v, true, stream);
    parallel_for(rows.count, row_grain(k.v, kHeavyGrain), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        float* row = logits + i * k.v;
        losses[i] = softmax_row(row, k.v, k.targets[rows.index[i]], k.scale, gradient);
        if (!std::is_same_v<T, float> && gradient) convert(row, dlogits + i * k.v, k.v);
      }
    });
    for (int64_t i = 0; i < rows.count; ++i) total += losses[i];
    main.gradients(rows, dlogits, k.v, begin == 0, stream);
    low.gradients(rows, dlogits, k.v, begin == 0, stream);
  }
  k.loss[0] = static_cast<float>(k.scale * total);
}

}  // namespace

void run(const VocabCrossEntropy& k, Cpu, Stream& stream) {
  with_storage(k.dtype, [&]<class T>() { fused<T>(k, stream); });
}

void run(const ScaleByScalar& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    with_storage(k.y_dtype, [&]<class To>() {
      for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) {
        const T* x = static_cast<const T*>(k.x);
        To* y = static_cast<To*>(k.y);
        const float s = k.s[0];
        if (k.accumulate) {
#pragma omp simd
          for (int64_t i = begin; i < end; ++i) y[i] = narrow<To>(widen(y[i]) + s * widen(x[i]));
        } else {
#pragma omp simd
          for (int64_t i = begin; i < end; ++i) y[i] = narrow<To>(s * widen(x[i]));
        }
      });
    });
  });
}

}  // namespace tpo
