#include "bench/limits.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>

#include "core/parallel_for.h"
#include "core/tensor.h"

namespace tpo {

namespace {

#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
using Vector = float __attribute__((vector_size(4 * kLanes)));
// Independent chains: two units with a latency of four to five cycles stay full.
constexpr int kChains = 12;
constexpr int64_t kRounds = 1 << 20;

void chains() {
  Vector acc[kChains];
  for (int c = 0; c < kChains; ++c) acc[c] = Vector{} + static_cast<float>(c);
  Vector a = Vector{} + 0.999999f, b = Vector{} + 1e-6f;
  asm volatile("" : "+v"(a), "+v"(b));  // the compiler must not know the values
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) acc[c] = acc[c] * a + b;
  }
  for (int c = 0; c < kChains; ++c) asm volatile("" : : "v"(acc[c]));  // nor drop the work
}

double best_seconds(int runs, const std::function<void()>& f) {
  double best = 1e30;
  for (int i = 0; i < runs; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

}  // namespace

Limits measure_limits() {
  Limits limits;
  limits.threads = num_threads();
  const double fma_s = best_seconds(8, [&] {
    parallel_for(limits.threads, 1, [](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) chains();
    });
  });
  limits.gflops = 1e-9 * 2 * kLanes * kChains * static_cast<double>(kRounds) * limits.threads / fma_s;

  constexpr int64_t kBytes = int64_t{128} << 20;  // four times the last-level cache of the machines we know
  const Tensor from = Tensor::zeros({kBytes}, DType::kU8), to = Tensor::zeros({kBytes}, DType::kU8);
  const double copy_s = best_seconds(6, [&] {
    parallel_for(kBytes, 1 << 20, [&](int64_t begin, int64_t end) {
      std::memcpy(static_cast<char*>(to.raw()) + begin, static_cast<const char*>(from.raw()) + begin,
                  static_cast<size_t>(end - begin));
    });
  });
  limits.gb_per_s = 1e-9 * 2 * static_cast<double>(kBytes) / copy_s;
  return limits;
}

}  // namespace tpo
