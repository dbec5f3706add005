#pragma once
// Losses that are sums over elements, with their gradient in the same pass. Formulas: ops/element_loss.h. Memory-bound
// but for those with exponentials.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

enum class ElementLossKind : uint8_t { kL1, kMse, kSmoothL1, kBceLogits, kBce, kFocal, kHinge };
int64_t flops_of(ElementLossKind kind);  // of the value; the slope takes about as many

// loss[0] = scale sum_i weight[i / group] f(x[i], target[i]), in fp32 over 1024 elements, then in double;
// dx[i] = scale weight[i / group] df/dx. Where the weight is 0 both are 0, whatever the elements hold.
struct ElementLoss {
  static constexpr const char* kName = "element_loss";
  const void* x;        // (n)
  const void* target;   // (n), null for kHinge
  const float* weight;  // (n / group), or null: 1
  float* loss;          // (1)
  void* dx;             // (n), or null: not wanted
  int64_t n, group;     // group >= 1
  ElementLossKind kind;
  float a, b;  // kSmoothL1: beta; kBceLogits: pos_weight; kFocal: alpha, gamma; kHinge: margin
  float scale;
  DType dtype;
  Cost cost() const {
    const int64_t bytes = width_of(dtype) * n;
    return {(flops_of(kind) + 2) * n * (dx ? 2 : 1), bytes * (target ? 2 : 1) + (weight ? 4 * (n / group) : 0),
            4 + (dx ? bytes : 0)};
  }
};
void run(const ElementLoss&, Cpu, Stream&);
void run(const ElementLoss&, Cuda, Stream&);

}  // namespace tpo
