#pragma once
// Rotary position embedding in one and two dimensions. Memory-bound: one pass; the angles of a row are formed once for
// all heads.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// y = x turned by +angle, or by -angle if inverse; see ops/rope.h for the formulas.
struct Rope {
  static constexpr const char* kName = "rope";
  const void* x;             // (rows, heads * dim)
  const int32_t* positions;  // (rows)
  void* y;                   // (rows, heads * dim); may be x
  int64_t rows, heads, dim;
  float theta;
  bool inverse;
  DType dtype;
  Cost cost() const {
    const int64_t n = rows * heads * dim;
    return {3 * n + 20 * rows * dim, width_of(dtype) * n + 4 * rows, width_of(dtype) * n};
  }
};
void run(const Rope&, Cpu, Stream&);
void run(const Rope&, Cuda, Stream&);

struct Rope2d {
  static constexpr const char* kName = "rope_2d";
  const void* x;             // (rows, heads * dim)
  const int32_t* positions;  // (rows, 2): x, y
  void* y;                   // (rows, heads * dim); may be x
  int64_t rows, heads, dim;
  float theta;
  bool inverse;
  DType dtype;
  Cost cost() const {  // counted as if the angles of every row were formed, though runs of equal x or y share them
    const int64_t n = rows * heads * dim;
    return {3 * n + 20 * rows * dim, width_of(dtype) * n + 8 * rows, width_of(dtype) * n};
  }
};
void run(const Rope2d&, Cpu, Stream&);
void run(const Rope2d&, Cuda, Stream&);

}  // namespace tpo
