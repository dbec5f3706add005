#include <cmath>
#include <vector>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/position.h"
#include "core/kernels/sincos.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr double kTwoPi = 6.283185307179586;

// Codes (n, features) of the positions of one axis.
template <class T>
std::vector<T> codes(const SineEncoding& k, int64_t n) {
  const int64_t pairs = k.features / 2;
  std::vector<double> frequency(static_cast<size_t>(pairs));
  for (size_t i = 0; i < frequency.size(); ++i)
    frequency[i] = std::pow(k.temperature, -2.0 * static_cast<double>(i) / static_cast<double>(k.features));
  const double last = k.first + static_cast<double>(n - 1), unit = k.unit_scale ? kTwoPi / (last + 1e-6) : 1;
  std::vector<T> table(static_cast<size_t>(n * k.features));
  for (int64_t p = 0; p < n; ++p) {
    const double at = (k.first + static_cast<double>(p)) * unit;
    T* row = table.data() + p * k.features;
#pragma omp simd
    for (int64_t i = 0; i < pairs; ++i) {
      const SinCos a = sincos_of(at * frequency[static_cast<size_t>(i)]);
      row[2 * i] = narrow<T>(a.sine);
      row[2 * i + 1] = narrow<T>(a.cosine);
    }
  }
  return table;
}

}  // namespace

void run(const SineEncoding& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    T* y = static_cast<T*>(k.y);
    const std::vector<T> across = codes<T>(k, k.width);
    if (k.height == 0) {
      std::copy(across.begin(), across.end(), y);
      return;
    }
    const std::vector<T> down = codes<T>(k, k.height);
    parallel_for(k.height, row_grain(2 * k.width * k.features, kLightGrain), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < k.width; ++j) {
          T* to = y + 2 * (i * k.width + j) * k.features;
          std::copy_n(down.data() + i * k.features, k.features, to);
          std::copy_n(across.data() + j * k.features, k.features, to + k.features);
        }
    });
  });
}

void run(const FourierEncoding& k, Cpu, Stream&) {
  parallel_for(k.n, row_grain(2 * k.features, kHeavyGrain), [&](int64_t begin, int64_t end) {
    std::vector<double> angle(static_cast<size_t>(k.features));
    for (int64_t r = begin; r < end; ++r) {
      std::fill(angle.begin(), angle.end(), 0.0);
      for (int64_t d = 0; d < k.dims; ++d) {
        const double at = kTwoPi * (2.0 * k.points[r * k.dims + d] - 1.0);
        const float* frequency = k.frequencies + d * k.features;
        double* sum = angle.data();
#pragma omp simd
        for (int64_t f = 0; f < k.features; ++f) sum[f] += at * frequency[f];
      }
      const double* a = angle.data();
      float *sine = k.y + r * 2 * k.features, *cosine = sine + k.features;
#pragma omp simd
      for (int64_t f = 0; f < k.features; ++f) {
        const SinCos v = sincos_of(a[f]);
        sine[f] = v.sine;
        cosine[f] = v.cosine;
      }
    }
  });
}

}  // namespace tpo
