#pragma once
// Losses of rows against a distribution, f32 or bf16, with their gradient while the row is in cache. Formulas:
// ops/row_loss.h.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// What a row holds of its distribution: logits (any number: softmax makes the distribution), logarithms, probabilities.
enum class RowsAs : uint8_t { kLogits, kLogProbs, kProbs };

// With target weights t[r,c] and log q from x as x_as says:
//   cross-entropy   loss[0] = scale sum_r weight[r] sum_c -t log q
//   divergence      loss[0] = scale sum_r weight[r] sum_c t (log t - log q)
// t is `target` as target_as says, or class_weight[labels[r]] at the label and 0 elsewhere (no t at all if the label is
// negative). dx is the gradient. A row of weight 0, or without a label, is not looked at and gets a zero gradient.
struct RowLoss {
  static constexpr const char* kName = "row_loss";
  static constexpr float kFloor = 1e-12f;  // probabilities of x below it count as it, without gradient
  const void* x = nullptr;                 // (rows, cols)
  const void* target = nullptr;            // (rows, cols), or null: labels
  const int32_t* labels = nullptr;         // (rows), or null
  const float* class_weight = nullptr;     // (cols), or null: 1
  const float* weight = nullptr;           // (rows), or null: 1
  float* loss = nullptr;                   // (1)
  void* dx = nullptr;                      // (rows, cols), or null: not wanted
  int64_t rows = 0, cols = 0;
  bool divergence = false;
  RowsAs x_as = RowsAs::kLogits, target_as = RowsAs::kProbs;  // target_as: not kLogProbs
  float scale = 1;
  DType dtype = DType::kF32;
  Cost cost() const {
    const int64_t n = rows * cols, bytes = width_of(dtype) * n;
    const int64_t flops = 28 + (divergence ? 28 : 0) + (dx ? 3 : 0);
    return {flops * n, bytes + (target ? bytes : 4 * rows) + (class_weight ? 4 * cols : 0) + (weight ? 4 * rows : 0),
            4 + (dx ? bytes : 0)};
  }
};
void run(const RowLoss&, Cpu, Stream&);
void run(const RowLoss&, Cuda, Stream&);

}  // namespace tpo
