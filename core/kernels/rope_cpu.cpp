#include <cmath>
#include <vector>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/rope.h"
#include "core/kernels/sincos.h"
#include "core/kernels/storage.h"

namespace tpo {

namespace {

// theta^(-step * i) for i < n
std::vector<double> frequencies(double theta, double step, int64_t n) {
  std::vector<double> f(static_cast<size_t>(n));
  for (size_t i = 0; i < f.size(); ++i) f[i] = std::pow(theta, -step * static_cast<double>(i));
  return f;
}

void angles(double position, const double* frequency, int64_t n, float sign, float* cosine, float* sine) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const SinCos a = sincos_of(position * frequency[i]);
    cosine[i] = a.cosine;
    sine[i] = sign * a.sine;
  }
}

}  // namespace

void run(const Rope& k, Cpu, Stream&) {
  const int64_t half = k.dim / 2, width = k.heads * k.dim;
  const std::vector<double> frequency = frequencies(k.theta, 2.0 / static_cast<double>(k.dim), half);
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(width, kHeavyGrain), [&](int64_t begin, int64_t end) {
      std::vector<float> table(static_cast<size_t>(2 * half));
      float *c = table.data(), *s = c + half;
      for (int64_t r = begin; r < end; ++r) {
        angles(k.positions[r], frequency.data(), half, k.inverse ? -1.0f : 1.0f, c, s);
        for (int64_t h = 0; h < k.heads; ++h) {
          const T* x = static_cast<const T*>(k.x) + r * width + h * k.dim;
          T* y = static_cast<T*>(k.y) + r * width + h * k.dim;
#pragma omp simd
          for (int64_t i = 0; i < half; ++i) {
            const float a = widen(x[i]), b = widen(x[i + half]);
            y[i] = narrow<T>(a * c[i] - b * s[i]);
            y[i + half] = narrow<T>(b * c[i] + a * s[i]);
          }
        }
      }
    });
  });
}

void run(const Rope2d& k, Cpu, Stream&) {
  const int64_t quarter = k.dim / 4, pairs = 2 * quarter, width = k.heads * k.dim;
  const std::vector<double> frequency = frequencies(k.theta, 4.0 / static_cast<double>(k.dim), quarter);
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(width, kHeavyGrain), [&](int64_t begin, int64_t end) {
      std::vector<float> table(static_cast<size_t>(2 * pairs));
      float *c = table.data(), *s = c + pairs;  // pairs turned by x, then those turned by y
      for (int64_t r = begin; r < end; ++r) {
        for (int axis = 0; axis < 2; ++axis) {
          const int32_t* at = k.positions + 2 * r + axis;
          if (r > begin && at[0] == at[-2]) continue;  // a row of a grid has one y
          angles(*at, frequency.data(), quarter, k.inverse ? -1.0f : 1.0f, c + axis * quarter, s + axis * quarter);
        }
        for (int64_t h = 0; h < k.heads; ++h) {
          const T* x = static_cast<const T*>(k.x) + r * width + h * k.dim;
          T* y = static_cast<T*>(k.y) + r * width + h * k.dim;
#pragma omp simd
          for (int64_t i = 0; i < pairs; ++i) {
            const float a = widen(x[2 * i]), b = widen(x[2 * i + 1]);
            y[2 * i] = narrow<T>(a * c[i] - b * s[i]);
            y[2 * i + 1] = narrow<T>(b * c[i] + a * s[i]);
          }
        }
      }
    });
  });
}

}  // namespace tpo
