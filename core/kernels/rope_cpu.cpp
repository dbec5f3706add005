// Rotary position embedding. Sines by reduction in double and short series in fp32: the loop vectorises, where the C
// library would take as long as the rest of the row.
#include <cmath>
#include <vector>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/rope.h"

namespace tpo {

namespace {

// cos and sin of position * frequency[i]. Absolute error below 1e-7 while |angle| < 2^30.
void angles(double position, const double* frequency, int64_t half, float* cosine, float* sine) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const double a = position * frequency[i];
    const double quarters = (a * 0.63661977236758134 + kRound) - kRound;
    const auto r = static_cast<float>(a - quarters * 1.5707963267948966), z = r * r;  // |r| <= pi/4
    // Cephes sinf and cosf.
    const float s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
    const float c =
        1.0f - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    const int q = static_cast<int>(quarters) & 3;
    const float cos_part = (q & 1) ? s : c, sin_part = (q & 1) ? c : s;
    cosine[i] = (q == 1 || q == 2) ? -cos_part : cos_part;
    sine[i] = (q & 2) ? -sin_part : sin_part;
  }
}

}  // namespace

void run(const Rope& k, Cpu, Stream&) {
  const int64_t half = k.dim / 2, width = k.heads * k.dim;
  std::vector<double> frequency(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i)
    frequency[static_cast<size_t>(i)] =
        std::pow(static_cast<double>(k.theta), -2.0 * static_cast<double>(i) / static_cast<double>(k.dim));
  parallel_for(k.rows, row_grain(width, kHeavyGrain), [&](int64_t begin, int64_t end) {
    std::vector<float> table(static_cast<size_t>(2 * half));
    float *c = table.data(), *s = c + half;
    for (int64_t r = begin; r < end; ++r) {
      angles(k.positions[r], frequency.data(), half, c, s);
      const float sign = k.inverse ? -1.0f : 1.0f;
      for (int64_t h = 0; h < k.heads; ++h) {
        const float* x = k.x + r * width + h * k.dim;
        float* y = k.y + r * width + h * k.dim;
#pragma omp simd
        for (int64_t i = 0; i < half; ++i) {
          const float a = x[i], b = x[i + half], turn = sign * s[i];
          y[i] = a * c[i] - b * turn;
          y[i + half] = b * c[i] + a * turn;
        }
      }
    }
  });
}

}  // namespace tpo
