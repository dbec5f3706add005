#pragma once
// Rotary position embedding, half-split. Memory-bound: one pass; the angles of a row are formed once for all heads.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

// y = x turned by +angle, or by -angle if inverse; see ops/rope.h for the formula.
struct Rope {
  static constexpr const char* kName = "rope";
  const float* x;            // (rows, heads * dim)
  const int32_t* positions;  // (rows)
  float* y;                  // (rows, heads * dim); may be x
  int64_t rows, heads, dim;
  float theta;
  bool inverse;
  Cost cost() const {
    const int64_t n = rows * heads * dim;
    return {3 * n + 20 * rows * dim, 4 * (n + rows), 4 * n};
  }
};
void run(const Rope&, Cpu, Stream&);
void run(const Rope&, Cuda, Stream&);

}  // namespace tpo
