#pragma once
// What the losses share: weights, and gradients that are formed in the pass that forms the loss. Such a gradient costs
// a buffer like its input from the loss to its backward, which follows at once, and is made only if somebody wants it.
#include "core/kernels/cross_entropy.h"
#include "core/ops/op_util.h"

namespace tpo {

// Throws ShapeError unless weight is undefined or (R) f32.
inline void check_row_weight(const char* op, const Tensor& weight, int64_t R) {
  if (!weight.defined()) return;
  check_f32(op, weight, "weight");
  check_shape(weight.shape() == Shape{R}, "[", op, "] weight ", weight.shape(), " must be (", R, "), one per row");
}

// Memory for the gradient of x if it is wanted, else an undefined tensor.
inline Tensor gradient_if_wanted(const Tensor& x) { return any_wants_grad({x}) ? empty_like(x) : Tensor(); }

// Records a loss of one input whose gradient for a loss gradient of 1 stands in `gx`, which nobody else holds.
inline void record_loss(const char* op, const Tensor& x, Tensor& loss, Tensor gx) {
  record(op, {x}, {&loss}, [gx = std::move(gx)](std::span<const Tensor> dy, GradSink& dx) {
    launch(ScaleByScalar{raw(gx), f32(dy[0]), raw(gx), gx.numel(), false, gx.dtype(), gx.dtype()});
    dx.add(0, gx);
  });
}

}  // namespace tpo
