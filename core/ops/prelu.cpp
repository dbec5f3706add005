#include "core/ops/prelu.h"

#include "core/kernels/prelu.h"
#include "core/ops/op_util.h"

namespace tpo {

Tensor prelu(const Tensor& x, const Tensor& slope) {
  check_float("prelu", x, "x");
  check_like("prelu", slope, "slope", x);
  const int64_t C = last_dim(x), R = rows_of(x), S = slope.numel();
  check_shape(slope.rank() == 1 && (S == 1 || S == C), "[prelu] slope ", slope.shape(), " must be (1) or (C) for x ",
              x.shape());
  Tensor y = empty_like(x);
  launch(PreluFwd{raw(x), raw(slope), raw(y), R, C, S, x.dtype()});
  record("prelu", {x, slope}, {&y},
         [x = x.detach(), slope = slope.detach(), R, C, S](std::span<const Tensor> dy, GradSink& dx) {
           const Tensor gx = dx.wants(0) ? reuse(dy[0]) : Tensor();
           const auto backward = [&](float* dslope, bool accumulate) {
             launch(PreluBwd{raw(x), raw(slope), raw(dy[0]), raw(gx), dslope, R, C, S, accumulate, x.dtype()});
           };
           if (!dx.wants(1)) backward(nullptr, false);
           fp32_destination(dx, 1, [&](const Tensor& g, bool accumulate) { backward(f32(g), accumulate); });
           if (gx.defined()) dx.add(0, gx);
         });
  return y;
}

Tensor softplus(const Tensor& x, float beta, float threshold) {
  check_float("softplus", x, "x");
  check_shape(beta > 0, "[softplus] beta is ", beta, ", must be > 0");
  Tensor y = empty_like(x);
  launch(SoftplusFwd{raw(x), raw(y), x.numel(), beta, threshold, x.dtype()});
  record("softplus", {x}, {&y}, [x = x.detach(), beta, threshold](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = reuse(dy[0]);
    launch(SoftplusBwd{raw(x), raw(dy[0]), raw(gx), x.numel(), beta, threshold, x.dtype()});
    dx.add(0, gx);
  });
  return y;
}

}  // namespace tpo
