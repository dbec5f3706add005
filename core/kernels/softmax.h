#pragma once
// Softmax over the last dim, f32 or bf16: y[r,c] = e^(x[r,c] - top_r) / sum_c e^(x[r,c] - top_r) with top_r = max_c
// x[r,c]; or its logarithm, y[r,c] = x[r,c] - top_r - log sum_c e^(x[r,c] - top_r). Memory-bound.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

struct SoftmaxFwd {
  static constexpr const char* kName = "softmax_fwd";
  const void* x;  // (rows, cols)
  void* y;        // (rows, cols), may be x
  int64_t rows, cols;
  DType dtype;
  bool log = false;
  Cost cost() const {
    const int64_t n = rows * cols, bytes = width_of(dtype) * n;
    return {24 * n, bytes, bytes};
  }
};
void run(const SoftmaxFwd&, Cpu, Stream&);
void run(const SoftmaxFwd&, Cuda, Stream&);

// dx = y (dy - sum_c y dy), or for the logarithm dx = dy - e^y sum_c dy
struct SoftmaxBwd {
  static constexpr const char* kName = "softmax_bwd";
  const void* y;   // (rows, cols)
  const void* dy;  // (rows, cols)
  void* dx;        // (rows, cols), may be dy
  int64_t rows, cols;
  DType dtype;
  bool log = false;
  Cost cost() const {
    const int64_t n = rows * cols, bytes = width_of(dtype) * n;
    return {(log ? 23 : 4) * n, 2 * bytes, bytes};
  }
};
void run(const SoftmaxBwd&, Cpu, Stream&);
void run(const SoftmaxBwd&, Cuda, Stream&);

}  // namespace tpo
