#pragma once
// Losses over boxes (x1, y1, x2, y2), fp32, summed over all boxes and multiplied by `scale`. Formulas: ops/box_loss.h.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

enum class BoxLossKind : uint8_t { kL1, kMse, kGiou };

// loss[0] = scale sum_b term(pred[b], target[b]), summed in double in order of b
struct BoxLossFwd {
  static constexpr const char* kName = "box_loss_fwd";
  const float* pred;    // (boxes, 4)
  const float* target;  // (boxes, 4)
  float* loss;          // (1)
  int64_t boxes;
  float scale;
  BoxLossKind kind;
  Cost cost() const { return {40 * boxes, 32 * boxes, 4}; }
};
void run(const BoxLossFwd&, Cpu, Stream&);
void run(const BoxLossFwd&, Cuda, Stream&);

// dpred[b,i] = dloss[0] scale d term / d pred[b,i]
struct BoxLossBwd {
  static constexpr const char* kName = "box_loss_bwd";
  const float* pred;    // (boxes, 4)
  const float* target;  // (boxes, 4)
  const float* dloss;   // (1)
  float* dpred;         // (boxes, 4)
  int64_t boxes;
  float scale;
  BoxLossKind kind;
  Cost cost() const { return {80 * boxes, 32 * boxes + 4, 16 * boxes}; }
};
void run(const BoxLossBwd&, Cpu, Stream&);
void run(const BoxLossBwd&, Cuda, Stream&);

}  // namespace tpo
