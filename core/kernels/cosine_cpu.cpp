// Rows by their length. A row is read twice, the second time from cache.
#include <algorithm>
#include <cmath>

#include "core/kernels/cosine.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

template <class T>
float dot(const T* a, const T* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < n; ++c) sum += widen(a[c]) * widen(b[c]);
  return sum;
}

float inverse_length(float squares, float eps) { return 1.0f / std::max(std::sqrt(squares), eps); }
// True if the length did count.
bool has_length(float inverse, float eps) { return inverse < 1.0f / eps; }

// out = p x + q z
template <class T>
void combine(const T* x, float p, const T* z, float q, T* out, int64_t n) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) out[c] = narrow<T>(p * widen(x[c]) + q * widen(z[c]));
}

// Calls fn.operator()<T>(r) for every row, on threads.
template <class Kernel, class Fn>
void each_row(const Kernel& k, const Fn& fn) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) fn.template operator()<T>(r);
    });
  });
}

template <class T>
const T* row_of(const void* p, int64_t r, int64_t cols) {
  return static_cast<const T*>(p) + r * cols;
}
template <class T>
T* row_of(void* p, int64_t r, int64_t cols) {
  return static_cast<T*>(p) + r * cols;
}

}  // namespace

void run(const NormalizeFwd& k, Cpu, Stream&) {
  each_row(k, [&]<class T>(int64_t r) {
    const T* x = row_of<T>(k.x, r, k.cols);
    T* y = row_of<T>(k.y, r, k.cols);
    const float inverse = inverse_length(dot(x, x, k.cols), k.eps);
    k.inverse[r] = inverse;
#pragma omp simd
    for (int64_t c = 0; c < k.cols; ++c) y[c] = narrow<T>(inverse * widen(x[c]));
  });
}

void run(const NormalizeBwd& k, Cpu, Stream&) {
  each_row(k, [&]<class T>(int64_t r) {
    const T *y = row_of<T>(k.y, r, k.cols), *dy = row_of<T>(k.dy, r, k.cols);
    const float inverse = k.inverse[r], along = has_length(inverse, k.eps) ? dot(y, dy, k.cols) : 0.0f;
    combine(dy, inverse, y, -inverse * along, row_of<T>(k.dx, r, k.cols), k.cols);
  });
}

void run(const CosineFwd& k, Cpu, Stream&) {
  each_row(k, [&]<class T>(int64_t r) {
    const T *a = row_of<T>(k.a, r, k.cols), *b = row_of<T>(k.b, r, k.cols);
    const float i = inverse_length(dot(a, a, k.cols), k.eps), j = inverse_length(dot(b, b, k.cols), k.eps);
    const float y = dot(a, b, k.cols) * i * j;
    k.stats[3 * r] = i, k.stats[3 * r + 1] = j, k.stats[3 * r + 2] = y;
    static_cast<T*>(k.y)[r] = narrow<T>(y);
  });
}

void run(const CosineBwd& k, Cpu, Stream&) {
  each_row(k, [&]<class T>(int64_t r) {
    const T *a = row_of<T>(k.a, r, k.cols), *b = row_of<T>(k.b, r, k.cols);
    const float i = k.stats[3 * r], j = k.stats[3 * r + 1], y = k.stats[3 * r + 2];
    const float dy = widen(static_cast<const T*>(k.dy)[r]);
    const float ya = has_length(i, k.eps) ? -dy * y * i * i : 0.0f, yb = has_length(j, k.eps) ? -dy * y * j * j : 0.0f;
    if (k.da) combine(b, dy * i * j, a, ya, row_of<T>(k.da, r, k.cols), k.cols);
    if (k.db) combine(a, dy * i * j, b, yb, row_of<T>(k.db, r, k.cols), k.cols);
  });
}

}  // namespace tpo
