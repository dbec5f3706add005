#pragma once
// Box encoder: a box that the user gives becomes one input row of the language model.
#include "model/linear.h"

namespace tpo {

// fc2(relu(fc1(box))) in fp32 (core/precision.h). Names: <scope>.fc1, <scope>.fc2.
class BoxEncoder {
 public:
  BoxEncoder(const ParamScope& scope, int64_t hidden, int64_t width, const TensorParallel& tp);
  // boxes (K, 4) x1, y1, x2, y2 as fractions -> (K, width).
  Tensor operator()(const Tensor& boxes_K4) const;

  const Linear& fc1() const { return fc1_; }
  const Linear& fc2() const { return fc2_; }

 private:
  Linear fc1_, fc2_;
};

}  // namespace tpo
