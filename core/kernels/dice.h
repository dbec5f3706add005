#pragma once
// Dice loss of rows of logits, f32 or bf16, with its gradient. Two passes over a row where the gradient is wanted: the
// sums have to be known first. Memory-bound.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// loss[0] = scale sum_r weight[r] (1 - (2 I + eps) / (P + T + eps)) with p = sigmoid(x), I = sum_c p target,
// P = sum_c p, T = sum_c target; dx[r,c] = scale weight[r] (N / D^2 - 2 target / D) p (1 - p), N and D the two sides of
// the fraction. Rows of weight 0 are not looked at and get a zero gradient.
struct DiceLoss {
  static constexpr const char* kName = "dice_loss";
  static constexpr int64_t kChunk = 4096;  // elements summed in fp32 by one thread
  static constexpr int64_t kSums = 3;      // I, P, T of a chunk
  const void* x;                           // (rows, cols)
  const void* target;                      // (rows, cols)
  const float* weight;                     // (rows), or null: 1
  float* loss;                             // (1)
  void* dx;                                // (rows, cols), or null: not wanted
  float* scratch;                          // scratch_floats()
  int64_t rows, cols;
  float eps, scale;
  DType dtype;

  int64_t chunks() const { return (cols + kChunk - 1) / kChunk; }
  int64_t scratch_floats() const { return rows * chunks() * kSums; }
  Cost cost() const {
    const int64_t n = rows * cols, bytes = width_of(dtype) * n;
    // A gradient needs the sums of a whole row first: rows are read again.
    return {(dx ? 60 : 28) * n, (dx ? 4 : 2) * bytes + (weight ? 4 * rows : 0), 4 + (dx ? bytes : 0)};
  }
};
void run(const DiceLoss&, Cpu, Stream&);
void run(const DiceLoss&, Cuda, Stream&);

}  // namespace tpo
