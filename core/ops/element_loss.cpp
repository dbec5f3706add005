#include "core/ops/element_loss.h"

#include "core/kernels/element_loss.h"
#include "core/ops/loss_util.h"

namespace tpo {

namespace {

struct Settings {
  ElementLossKind kind;
  float scale;
  float a = 0, b = 0;
};

Tensor element_loss(const char* op, const Tensor& x, const Tensor& target, const Tensor& weight, const Settings& s) {
  check_float(op, x, "x");
  if (s.kind != ElementLossKind::kHinge) {
    check_like(op, target, "target", x);
    check_shape(x.shape() == target.shape(), "[", op, "] x ", x.shape(), " and target ", target.shape(), " differ");
  }
  const int64_t n = x.numel();
  int64_t group = 1;
  if (weight.defined()) {
    check_f32(op, weight, "weight");
    const bool by_row = x.rank() > 1 && weight.rank() == 1 && weight.dim(0) == x.dim(0);
    check_shape(by_row || weight.shape() == x.shape(), "[", op, "] weight ", weight.shape(), " must be x's ", x.shape(),
                " or one per row of the first dim");
    if (by_row && n > 0) group = n / x.dim(0);
  }
  Tensor loss = Tensor::empty({1});
  Tensor gx = gradient_if_wanted(x);
  launch(ElementLoss{raw(x), raw(target), f32(weight), f32(loss), raw(gx), n, group, s.kind, s.a, s.b, s.scale,
                     x.dtype()});
  record_loss(op, x, loss, std::move(gx));
  return loss;
}

}  // namespace

Tensor l1_loss(const Tensor& x, const Tensor& target, float scale, const Tensor& weight) {
  return element_loss("l1_loss", x, target, weight, {ElementLossKind::kL1, scale});
}

Tensor mse_loss(const Tensor& x, const Tensor& target, float scale, const Tensor& weight) {
  return element_loss("mse_loss", x, target, weight, {ElementLossKind::kMse, scale});
}

Tensor smooth_l1_loss(const Tensor& x, const Tensor& target, float beta, float scale, const Tensor& weight) {
  check_shape(beta > 0, "[smooth_l1_loss] beta is ", beta, ", must be > 0");
  return element_loss("smooth_l1_loss", x, target, weight, {ElementLossKind::kSmoothL1, scale, beta});
}

Tensor bce_with_logits(const Tensor& x, const Tensor& target, float scale, const Tensor& weight, float pos_weight) {
  return element_loss("bce_with_logits", x, target, weight, {ElementLossKind::kBceLogits, scale, pos_weight});
}

Tensor bce_loss(const Tensor& x, const Tensor& target, float scale, const Tensor& weight) {
  return element_loss("bce_loss", x, target, weight, {ElementLossKind::kBce, scale});
}

Tensor sigmoid_focal_loss(const Tensor& x, const Tensor& target, float alpha, float gamma, float scale,
                          const Tensor& weight) {
  check_shape(gamma >= 0, "[sigmoid_focal_loss] gamma is ", gamma, ", must be >= 0");
  return element_loss("sigmoid_focal_loss", x, target, weight, {ElementLossKind::kFocal, scale, alpha, gamma});
}

Tensor hinge_loss(const Tensor& x, float margin, float scale, const Tensor& weight) {
  return element_loss("hinge_loss", x, Tensor(), weight, {ElementLossKind::kHinge, scale, margin});
}

}  // namespace tpo
