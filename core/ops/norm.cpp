#include "core/ops/norm.h"

#include "core/kernels/norm.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

void check_line(const char* op, const Tensor& x, const Tensor& line, const char* what) {
  check_f32(op, x, "x");
  check_f32(op, line, what);
  check_shape(line.shape() == Shape{last_dim(x)}, "[", op, "] ", what, " ", line.shape(), " must be (C) for x ",
              x.shape());
}

void check_eps(const char* op, float eps) { check_shape(eps > 0, "[", op, "] eps is ", eps, ", must be above 0"); }

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& gain, float eps) {
  check_line("rms_norm", x, gain, "gain");
  check_eps("rms_norm", eps);
  const int64_t C = last_dim(x), R = rows_of(x);
  Tensor y = empty_like(x), rstd = Tensor::empty({R});
  launch(RmsNormFwd{f32(x), f32(gain), f32(y), f32(rstd), R, C, eps});
  // With h = x * rstd:   dx = rstd * (g*dy - h * mean_c(h * g*dy)),   dg = sum_r(dy * h).
  record("rms_norm", {x, gain}, {&y},
         [x = x.detach(), gain = gain.detach(), rstd, R, C](std::span<const Tensor> dy, GradSink& dx) {
           const bool wants_gain = dx.wants(1);
           const GradDest dg = wants_gain ? dx.destination(1) : GradDest{};
           const Tensor partial = wants_gain ? Tensor::empty({norm_row_blocks(R), C}) : Tensor();
           const Tensor gx = reuse(dy[0]);
           launch(RmsNormBwd{f32(x), f32(gain), f32(rstd), f32(dy[0]), f32(gx), f32(dg.grad), f32(partial), R, C,
                             dg.accumulate});
           dx.add(0, gx);
         });
  return y;
}

Tensor layer_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, float eps) {
  check_line("layer_norm", x, gain, "gain");
  check_line("layer_norm", x, bias, "bias");
  check_eps("layer_norm", eps);
  const int64_t C = last_dim(x), R = rows_of(x);
  Tensor y = empty_like(x), mean = Tensor::empty({R}), rstd = Tensor::empty({R});
  launch(LayerNormFwd{f32(x), f32(gain), f32(bias), f32(y), f32(mean), f32(rstd), R, C, eps});
  // With h = (x - mean) * rstd:   dx = rstd * (g*dy - mean_c(g*dy) - h * mean_c(h * g*dy)),
  //                               dg = sum_r(dy * h),   db = sum_r(dy).
  record("layer_norm", {x, gain, bias}, {&y},
         [x = x.detach(), gain = gain.detach(), mean, rstd, R, C](std::span<const Tensor> dy, GradSink& dx) {
           const GradDest dg = dx.wants(1) ? dx.destination(1) : GradDest{};
           const GradDest db = dx.wants(2) ? dx.destination(2) : GradDest{};
           const bool sums = dg.grad.defined() || db.grad.defined();
           const Tensor partial = sums ? Tensor::empty({2, norm_row_blocks(R), C}) : Tensor();
           const Tensor gx = reuse(dy[0]);
           launch(LayerNormBwd{f32(x), f32(gain), f32(mean), f32(rstd), f32(dy[0]), f32(gx), f32(dg.grad), f32(db.grad),
                               f32(partial), R, C, dg.accumulate, db.accumulate});
           dx.add(0, gx);
         });
  return y;
}

}  // namespace tpo
