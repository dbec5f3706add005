#include "launcher/peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace tpo {

double measure_peak_gflops() {
  // Twelve independent chains of 8 fused multiply-adds: two units with a latency of four to five cycles stay full.
  using V = float __attribute__((vector_size(32)));
  constexpr int kChains = 12;
  constexpr int64_t kRounds = 1 << 20;
  double best = 0;
  for (int run = 0; run < 8; ++run) {
    V acc[kChains];
    for (int c = 0; c < kChains; ++c) acc[c] = V{} + static_cast<float>(c);
    V a = V{} + 0.999999f, b = V{} + 1e-6f;
    asm volatile("" : "+x"(a), "+x"(b));  // the compiler must not know the values
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
      for (int c = 0; c < kChains; ++c) acc[c] = acc[c] * a + b;
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    for (int c = 0; c < kChains; ++c) asm volatile("" : : "x"(acc[c]));  // nor drop the work
    best = std::max(best, 2.0 * 8 * kChains * static_cast<double>(kRounds) / seconds * 1e-9);
  }
  return best;
}

}  // namespace tpo
