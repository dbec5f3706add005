#pragma once
// Losses that are sums over elements:  loss = scale * sum_i weight_i * f(x_i, target_i)
//   x, target  any shape, the same for both, both f32 or both bf16; computed in fp32, summed in a fixed order
//   weight     absent (1), or f32 of x's shape, or (x.dim(0)): one per row of the first dim. An element of weight 0 is
//              a masked one: loss and gradient are 0 there, whatever x and target hold
//   scale      weight of the loss / fixed global count, so that losses of ranks and microbatches add
//   -> (1) f32. If x wants a gradient it is formed in the same pass and kept, stored as x, until backward multiplies it
//   by dy (in bf16 a second rounding, exact for powers of two); x and target are not saved. No gradient flows to target
//   and weight. Throws ShapeError naming the shapes, before any effect.
#include "core/tape.h"

namespace tpo {

// |x - target|; derivative 0 where they are equal
Tensor l1_loss(const Tensor& x, const Tensor& target, float scale, const Tensor& weight = {});

// (x - target)^2
Tensor mse_loss(const Tensor& x, const Tensor& target, float scale, const Tensor& weight = {});

// With d = x - target: d^2 / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere; beta > 0. As torch's.
Tensor smooth_l1_loss(const Tensor& x, const Tensor& target, float beta, float scale, const Tensor& weight = {});

// Binary cross-entropy of the logit x, target t in [0, 1]:
// -pos_weight t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)), finite for every finite x.
Tensor bce_with_logits(const Tensor& x, const Tensor& target, float scale, const Tensor& weight = {},
                       float pos_weight = 1);

// Binary cross-entropy of the probability x, target t in [0, 1]: -t log x - (1 - t) log(1 - x) with both arguments held
// in [1e-6, 1], outside which they have no gradient: rounding of sums that should be 1 is harmless.
Tensor bce_loss(const Tensor& x, const Tensor& target, float scale, const Tensor& weight = {});

// Focal loss of the logit x, target t in [0, 1]: a (1 - p_t)^gamma ce with p = sigmoid(x), ce = bce_with_logits,
// p_t = p t + (1 - p) (1 - t), a = alpha t + (1 - alpha) (1 - t), or 1 if alpha < 0; gamma >= 0. Both ends keep their
// digits. As torchvision's. Source: Lin et al. 2017, arXiv:1708.02002.
Tensor sigmoid_focal_loss(const Tensor& x, const Tensor& target, float alpha, float gamma, float scale,
                          const Tensor& weight = {});

// max(0, margin - x), no target; derivative -1 at the kink, as torch's clamp. A margin ranking of pairs is
// hinge_loss(sub(higher, lower), margin, scale).
Tensor hinge_loss(const Tensor& x, float margin, float scale, const Tensor& weight = {});

}  // namespace tpo
