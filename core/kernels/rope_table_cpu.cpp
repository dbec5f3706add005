#include <cmath>
#include <vector>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/rope_table.h"
#include "core/kernels/sincos.h"

namespace tpo {

void run(const RopeTable& k, Cpu, Stream&) {
  const int64_t half = k.dim / 2;
  std::vector<double> frequency(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i)
    frequency[static_cast<size_t>(i)] =
        std::pow(static_cast<double>(k.theta), -2.0 * static_cast<double>(i) / static_cast<double>(k.dim));
  parallel_for(k.rows, row_grain(k.dim, kHeavyGrain), [&](int64_t begin, int64_t end) {
    const double* f = frequency.data();
    for (int64_t r = begin; r < end; ++r) {
      float* out = k.out + r * k.dim;
      const auto position = static_cast<double>(k.positions[r]);
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const SinCos a = sincos_of(position * f[i]);
        out[i] = a.cosine;
        out[i + half] = a.sine;
      }
    }
  });
}

}  // namespace tpo
