#include "core/ops/box_loss.h"

#include "core/kernels/box_loss.h"
#include "core/launch.h"
#include "core/ops/loss_util.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

Tensor box_loss(const char* op, const Tensor& pred, const Tensor& target, float scale, const Tensor& weight,
                BoxLossKind kind) {
  const int64_t D = numbers_of(kind);
  check_float(op, pred, "pred");
  check_like(op, target, "target", pred);
  check_shape(pred.rank() == 2 && pred.dim(1) == D && pred.shape() == target.shape(), "[", op, "] pred ", pred.shape(),
              " and target ", target.shape(), " must both be (R, ", D, ")");
  const int64_t R = pred.dim(0);
  check_row_weight(op, weight, R);
  Tensor y = Tensor::empty({1});
  launch(BoxLossFwd{raw(pred), raw(target), f32(weight), f32(y), R, scale, kind, pred.dtype()});
  record(op, {pred}, {&y},
         [pred = pred.detach(), target = target.detach(), weight, R, scale, kind](std::span<const Tensor> dy,
                                                                                  GradSink& dx) {
           const Tensor gx = empty_like(pred);
           launch(BoxLossBwd{raw(pred), raw(target), f32(weight), f32(dy[0]), raw(gx), R, scale, kind, pred.dtype()});
           dx.add(0, gx);
         });
  return y;
}

}  // namespace

Tensor l1_box_loss(const Tensor& pred, const Tensor& target, float scale, const Tensor& weight) {
  return box_loss("l1_box_loss", pred, target, scale, weight, BoxLossKind::kL1);
}

Tensor mse_box_loss(const Tensor& pred, const Tensor& target, float scale, const Tensor& weight) {
  return box_loss("mse_box_loss", pred, target, scale, weight, BoxLossKind::kMse);
}

Tensor giou_box_loss(const Tensor& pred, const Tensor& target, float scale, const Tensor& weight) {
  return box_loss("giou_box_loss", pred, target, scale, weight, BoxLossKind::kGiou);
}

Tensor giou_span_loss(const Tensor& pred, const Tensor& target, float scale, const Tensor& weight) {
  return box_loss("giou_span_loss", pred, target, scale, weight, BoxLossKind::kSpanGiou);
}

}  // namespace tpo
