#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace tpo {

struct AdamWParams {
  float lr = 1e-3f;           // >= 0, already scheduled and scaled for this run of parameters
  float beta1 = 0.9f;         // [0, 1), decay of the first moment
  float beta2 = 0.999f;       // [0, 1), decay of the second moment
  float eps = 1e-8f;          // > 0, added to the root of the second moment
  float weight_decay = 0.0f;  // >= 0, decoupled: the step shrinks param by lr * weight_decay of itself
  float grad_scale = 1.0f;    // multiplies the gradient on reading: clipping costs no pass of its own
};

// One step over flat fp32 buffers of equal length, in one launch, never recorded:
//   g = grad_scale grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
//   param = (1 - lr weight_decay) param - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
// `step` counts from 1. Different weight decay or learning rate for a part: call it on Tensor::rows of the buffers.
// Elements are independent: the result does not depend on threads or on how a buffer is cut.
// Throws ShapeError if lengths or dtypes differ, ConfigError if a value is out of range, before any effect.
// Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
void adamw_step(Tensor& param, const Tensor& grad, Tensor& m, Tensor& v, const AdamWParams& p, int64_t step);

}  // namespace tpo
