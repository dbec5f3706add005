#include "core/ops/row_loss.h"

#include "core/kernels/dice.h"
#include "core/ops/loss.h"
#include "core/ops/loss_util.h"

namespace tpo {

namespace {

void check_pair(const char* op, const Tensor& x, const Tensor& target) {
  check_float(op, x, "x");
  check_like(op, target, "target", x);
  check_shape(x.shape() == target.shape(), "[", op, "] x ", x.shape(), " and target ", target.shape(), " differ");
  check_shape(last_dim(x) >= 1, "[", op, "] the last dim of ", x.shape(), " is empty");
}

// Fills in what all row losses have, launches and records.
Tensor row_loss(const char* op, const Tensor& x, RowLoss k) {
  Tensor loss = Tensor::empty({1});
  Tensor gx = gradient_if_wanted(x);
  k.x = raw(x), k.loss = f32(loss), k.dx = raw(gx);
  k.rows = rows_of(x), k.cols = last_dim(x), k.dtype = x.dtype();
  launch(k);
  record_loss(op, x, loss, std::move(gx));
  return loss;
}

}  // namespace

Tensor cross_entropy(const Tensor& x, const Tensor& labels, float scale, const Tensor& class_weight) {
  constexpr const char* kOp = "cross_entropy";
  check_float(kOp, x, "x");
  check_i32_vector(kOp, labels, "labels");
  const int64_t C = last_dim(x), R = rows_of(x);
  check_shape(C >= 1 && labels.dim(0) == R, "[", kOp, "] labels ", labels.shape(), " must be one per row of x ",
              x.shape());
  if (class_weight.defined()) {
    check_f32(kOp, class_weight, "class_weight");
    check_shape(class_weight.shape() == Shape{C}, "[", kOp, "] class_weight ", class_weight.shape(), " must be (", C,
                ")");
  }
  if (labels.device() == Device::kCpu) {
    for (int64_t r = 0; r < R; ++r)
      check<DataError>(i32(labels)[r] == kIgnoreTarget || (i32(labels)[r] >= 0 && i32(labels)[r] < C), "[", kOp,
                       "] label of row ", r, " is ", i32(labels)[r], ", must be in 0..", C - 1, " or ", kIgnoreTarget);
  }
  return row_loss(kOp, x, {.labels = i32(labels), .class_weight = f32(class_weight), .scale = scale});
}

Tensor soft_cross_entropy(const Tensor& x, const Tensor& target, float scale, const Tensor& weight) {
  check_pair("soft_cross_entropy", x, target);
  check_row_weight("soft_cross_entropy", weight, rows_of(x));
  return row_loss("soft_cross_entropy", x, {.target = raw(target), .weight = f32(weight), .scale = scale});
}

Tensor kl_loss(const Tensor& x, RowsAs x_as, const Tensor& target, RowsAs target_as, float scale,
               const Tensor& weight) {
  check_pair("kl_loss", x, target);
  check_row_weight("kl_loss", weight, rows_of(x));
  check_shape(target_as != RowsAs::kLogProbs, "[kl_loss] a target of log-probabilities is one of logits");
  return row_loss("kl_loss", x,
                  {.target = raw(target),
                   .weight = f32(weight),
                   .divergence = true,
                   .x_as = x_as,
                   .target_as = target_as,
                   .scale = scale});
}

Tensor dice_loss(const Tensor& x, const Tensor& target, float eps, float scale, const Tensor& weight) {
  check_pair("dice_loss", x, target);
  check_shape(eps > 0, "[dice_loss] eps is ", eps, ", must be > 0");
  const int64_t R = x.dim(0), C = R == 0 ? 0 : x.numel() / R;
  check_shape(R == 0 || C >= 1, "[dice_loss] rows of x ", x.shape(), " are empty");
  check_row_weight("dice_loss", weight, R);
  Tensor loss = Tensor::empty({1});
  Tensor gx = gradient_if_wanted(x);
  DiceLoss k{raw(x), raw(target), f32(weight), f32(loss), raw(gx), nullptr, R, C, eps, scale, x.dtype()};
  {
    const Tensor scratch = Tensor::empty({k.scratch_floats()});
    k.scratch = f32(scratch);
    launch(k);
  }
  record_loss("dice_loss", x, loss, std::move(gx));
  return loss;
}

}  // namespace tpo
