#pragma once
// Region head: a box from the state at a <boxes> slot. R slots, C width.
#include "model/linear.h"

namespace tpo {

struct RegionConfig {
  int64_t hidden = 0;
  float l1_weight = 2.0f;
  float giou_weight = 0.2f;
  bool mse = false;  // mean squared error instead of L1 and GIoU (the paper's text; the public code uses L1 and GIoU)
};

// fc2(relu(fc1(e))), no output activation: predictions may leave [0, 1]. Its parameters are fp32 (core/precision.h).
// Names: <scope>.fc1, <scope>.fc2.
class RegionHead {
 public:
  RegionHead(const ParamScope& scope, int64_t width, const RegionConfig& config, const TensorParallel& tp);
  // e (R, C) -> (R, 4): x1, y1, x2, y2 as fractions of the picture.
  Tensor operator()(const Tensor& e_RC) const;

  const Linear& fc1() const { return fc1_; }
  const Linear& fc2() const { return fc2_; }

 private:
  Linear fc1_, fc2_;
};

// scale * (l1_weight * sum over boxes of mean_4 |pred - target| + giou_weight * sum over boxes of (1 - GIoU)) -> (1).
// With scale = weight / (boxes of the whole step) this is weight * (l1_weight * mean L1 + giou_weight * mean(1 -
// GIoU)). A prediction with x2 < x1 or y2 < y1 counts the constant 2 for 1 - GIoU, without gradient. The divisor is the
// number of all boxes, not of the valid ones, so that the loss of a step is a plain sum over its boxes. config.mse:
// scale * sum over boxes of mean_4 (pred - target)^2.
Tensor region_loss(const Tensor& pred_R4, const Tensor& target_R4, const RegionConfig& config, float scale);

}  // namespace tpo
