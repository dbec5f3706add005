#pragma once
// Conversion between the storages of floating-point values. Memory-bound, one pass.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// dst[i] (+)= src[i]; the sum is formed in fp32 and rounded once.
struct Cast {
  static constexpr const char* kName = "cast";
  const void* src;  // (n) from
  void* dst;        // (n) to
  int64_t n;
  DType from, to;
  bool accumulate = false;
  Cost cost() const {
    const auto in = static_cast<int64_t>(size_of(from)), out = static_cast<int64_t>(size_of(to));
    return {accumulate ? n : 0, n * (in + (accumulate ? out : 0)), n * out};
  }
};
void run(const Cast&, Cpu, Stream&);
void run(const Cast&, Cuda, Stream&);

}  // namespace tpo
