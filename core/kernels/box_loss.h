#pragma once
// Losses over boxes (x1, y1, x2, y2) and spans (centre, width), stored as f32 or bf16, computed in double, summed with
// a weight each and multiplied by `scale`. Formulas: ops/box_loss.h.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

enum class BoxLossKind : uint8_t { kL1, kMse, kGiou, kSpanGiou };
// Numbers of one box or span.
constexpr int64_t numbers_of(BoxLossKind kind) { return kind == BoxLossKind::kSpanGiou ? 2 : 4; }

// loss[0] = scale sum_b weight[b] term(pred[b], target[b]), summed in double in order of b. D is numbers_of(kind).
struct BoxLossFwd {
  static constexpr const char* kName = "box_loss_fwd";
  const void* pred;     // (boxes, D)
  const void* target;   // (boxes, D)
  const float* weight;  // (boxes), or null: 1
  float* loss;          // (1)
  int64_t boxes;
  float scale;
  BoxLossKind kind;
  DType dtype;
  Cost cost() const {
    const int64_t box = width_of(dtype) * numbers_of(kind);
    return {40 * boxes, (2 * box + (weight ? 4 : 0)) * boxes, 4};
  }
};
void run(const BoxLossFwd&, Cpu, Stream&);
void run(const BoxLossFwd&, Cuda, Stream&);

// dpred[b,i] = dloss[0] scale weight[b] d term / d pred[b,i]
struct BoxLossBwd {
  static constexpr const char* kName = "box_loss_bwd";
  const void* pred;     // (boxes, D)
  const void* target;   // (boxes, D)
  const float* weight;  // (boxes), or null: 1
  const float* dloss;   // (1)
  void* dpred;          // (boxes, D)
  int64_t boxes;
  float scale;
  BoxLossKind kind;
  DType dtype;
  Cost cost() const {
    const int64_t box = width_of(dtype) * numbers_of(kind);
    return {80 * boxes, (2 * box + (weight ? 4 : 0)) * boxes + 4, box * boxes};
  }
};
void run(const BoxLossBwd&, Cpu, Stream&);
void run(const BoxLossBwd&, Cuda, Stream&);

}  // namespace tpo
