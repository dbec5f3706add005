#include "core/ops/box_loss.h"

#include "core/kernels/box_loss.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

Tensor box_loss(const char* op, const Tensor& pred, const Tensor& target, float scale, BoxLossKind kind) {
  check_f32(op, pred, "pred");
  check_f32(op, target, "target");
  check_shape(pred.rank() == 2 && pred.dim(1) == 4 && pred.shape() == target.shape(), "[", op, "] pred ", pred.shape(),
              " and target ", target.shape(), " must both be (R, 4)");
  const int64_t R = pred.dim(0);
  Tensor y = Tensor::empty({1});
  launch(BoxLossFwd{f32(pred), f32(target), f32(y), R, scale, kind});
  record(op, {pred}, {&y},
         [pred = pred.detach(), target = target.detach(), R, scale, kind](std::span<const Tensor> dy, GradSink& dx) {
           const Tensor gx = empty_like(pred);
           launch(BoxLossBwd{f32(pred), f32(target), f32(dy[0]), f32(gx), R, scale, kind});
           dx.add(0, gx);
         });
  return y;
}

}  // namespace

Tensor l1_box_loss(const Tensor& pred, const Tensor& target, float scale) {
  return box_loss("l1_box_loss", pred, target, scale, BoxLossKind::kL1);
}

Tensor mse_box_loss(const Tensor& pred, const Tensor& target, float scale) {
  return box_loss("mse_box_loss", pred, target, scale, BoxLossKind::kMse);
}

Tensor giou_box_loss(const Tensor& pred, const Tensor& target, float scale) {
  return box_loss("giou_box_loss", pred, target, scale, BoxLossKind::kGiou);
}

}  // namespace tpo
