#pragma once
// Softmax over the last dim, fp32: y[r,c] = exp(x[r,c] - max_c x) / sum_c exp(x[r,c] - max_c x).
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

struct SoftmaxFwd {
  static constexpr const char* kName = "softmax_fwd";
  const float* x;  // (rows, cols)
  float* y;        // (rows, cols), may be x
  int64_t rows, cols;
  Cost cost() const { return {24 * rows * cols, 4 * rows * cols, 4 * rows * cols}; }
};
void run(const SoftmaxFwd&, Cpu, Stream&);
void run(const SoftmaxFwd&, Cuda, Stream&);

// dx = y (dy - sum_c y dy)
struct SoftmaxBwd {
  static constexpr const char* kName = "softmax_bwd";
  const float* y;   // (rows, cols)
  const float* dy;  // (rows, cols)
  float* dx;        // (rows, cols), may be dy
  int64_t rows, cols;
  Cost cost() const { return {4 * rows * cols, 8 * rows * cols, 4 * rows * cols}; }
};
void run(const SoftmaxBwd&, Cpu, Stream&);
void run(const SoftmaxBwd&, Cuda, Stream&);

}  // namespace tpo
