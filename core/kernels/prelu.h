#pragma once
// Activations with a parameter, f32 or bf16. Memory-bound; softplus has an exponential.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// y[r,c] = x[r,c] > 0 ? x[r,c] : slope[c] x[r,c], or slope[0] for all if slopes is 1
struct PreluFwd {
  static constexpr const char* kName = "prelu_fwd";
  const void* x;               // (rows, cols)
  const void* slope;           // (slopes)
  void* y;                     // (rows, cols)
  int64_t rows, cols, slopes;  // slopes: 1 or cols
  DType dtype;
  Cost cost() const {
    const int64_t n = rows * cols, width = width_of(dtype);
    return {2 * n, width * (n + slopes), width * n};
  }
};
void run(const PreluFwd&, Cpu, Stream&);
void run(const PreluFwd&, Cuda, Stream&);

// dx[r,c] = x > 0 ? dy : slope dy;  dslope (+)= sum over its rows and columns of x > 0 ? 0 : x dy, in an order that
// does not depend on threads
struct PreluBwd {
  static constexpr const char* kName = "prelu_bwd";
  const void* x;      // (rows, cols)
  const void* slope;  // (slopes)
  const void* dy;     // (rows, cols)
  void* dx;           // (rows, cols), may be dy; null: not wanted
  float* dslope;      // (slopes), or null: not wanted
  int64_t rows, cols, slopes;
  bool accumulate;
  DType dtype;
  Cost cost() const {
    const int64_t n = rows * cols, width = width_of(dtype);
    return {(dx ? 2 : 0) * n + (dslope ? 3 : 0) * n, width * (2 * n + slopes) + (dslope && accumulate ? 4 * slopes : 0),
            (dx ? width * n : 0) + (dslope ? 4 * slopes : 0)};
  }
};
void run(const PreluBwd&, Cpu, Stream&);
void run(const PreluBwd&, Cuda, Stream&);

// y[i] = z > threshold ? x[i] : log(1 + e^z) / beta, z = beta x[i]
struct SoftplusFwd {
  static constexpr const char* kName = "softplus_fwd";
  const void* x;  // (n)
  void* y;        // (n)
  int64_t n;
  float beta, threshold;
  DType dtype;
  Cost cost() const { return {42 * n, width_of(dtype) * n, width_of(dtype) * n}; }
};
void run(const SoftplusFwd&, Cpu, Stream&);
void run(const SoftplusFwd&, Cuda, Stream&);

// dx[i] = z > threshold ? dy[i] : sigmoid(z) dy[i]
struct SoftplusBwd {
  static constexpr const char* kName = "softplus_bwd";
  const void* x;   // (n)
  const void* dy;  // (n)
  void* dx;        // (n), may be dy
  int64_t n;
  float beta, threshold;
  DType dtype;
  Cost cost() const { return {26 * n, 2 * width_of(dtype) * n, width_of(dtype) * n}; }
};
void run(const SoftplusBwd&, Cpu, Stream&);
void run(const SoftplusBwd&, Cuda, Stream&);

}  // namespace tpo
