#pragma once
// Elements chosen by a mask of bytes, 0 or not. Memory-bound, one pass.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// y[i] = mask[i] ? a[i] : b[i], where `value` stands for an operand that is null. y may be a or b.
struct Select {
  static constexpr const char* kName = "select";
  const uint8_t* mask;  // (n)
  const void* a;        // (n) or null
  const void* b;        // (n) or null
  void* y;              // (n)
  int64_t n;
  float value;
  DType dtype;
  Cost cost() const {
    const int64_t operands = (a ? 1 : 0) + (b ? 1 : 0);
    return {0, n * (1 + operands * width_of(dtype)), n * width_of(dtype)};
  }
};
void run(const Select&, Cpu, Stream&);
void run(const Select&, Cuda, Stream&);

}  // namespace tpo
