#pragma once
// Losses of boxes (x1, y1, x2, y2), usually in 0..1 of the image, and of spans (centre, width); any unit works.
//   pred, target (R, 4) or (R, 2), both f32 or both bf16, R may be 0   scale: weight / fixed global count, so that
//   losses of ranks and microbatches add   weight (R) f32, a factor per row; a row of weight 0 is not looked at
//   -> (1) f32. Save pred, target and weight. No gradient flows to target or weight. Terms and sums run in double in
//   the order of rows. Throws ShapeError naming both shapes, before any effect.
#include "core/tape.h"

namespace tpo {

// scale * sum over boxes and coordinates of |pred - target|; derivative 0 where they are equal
Tensor l1_box_loss(const Tensor& pred, const Tensor& target, float scale, const Tensor& weight = {});

// scale * sum over boxes and coordinates of (pred - target)^2
Tensor mse_box_loss(const Tensor& pred, const Tensor& target, float scale, const Tensor& weight = {});

// scale * sum over boxes of (x2 >= x1 and y2 >= y1 ? 1 - GIoU(pred, target) : 2), the constant 2 without gradient.
//   GIoU = I/U - (H - U)/H with the areas I of the intersection, U of the union, H of the enclosing box.
//   U = 0 counts as I/U = 0, H = 0 as (H - U)/H = 0. Where pred and target share an edge the derivative of max and min
//   is one half; for equal boxes the gradient is 0. Where boxes only touch, I has none. NaN in pred gives NaN.
//   Source: Rezatofighi et al. 2019, arXiv:1902.09630.
Tensor giou_box_loss(const Tensor& pred, const Tensor& target, float scale, const Tensor& weight = {});

// The same in one dimension, for spans (centre, width) whose ends are centre -+ width / 2:
// scale * sum over spans of (width >= 0 ? 1 - GIoU : 2).
Tensor giou_span_loss(const Tensor& pred, const Tensor& target, float scale, const Tensor& weight = {});

}  // namespace tpo
