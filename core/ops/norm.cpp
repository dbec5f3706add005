#include "core/ops/norm.h"

#include "core/kernels/norm.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

void check_line(const char* op, const Tensor& x, const Tensor& line, const char* what) {
  check_float(op, x, "x");
  check_like(op, line, what, x);
  check_shape(line.shape() == Shape{last_dim(x)}, "[", op, "] ", what, " ", line.shape(), " must be (C) for x ",
              x.shape());
}

void check_branch(const char* op, const Tensor& x, const Tensor& branch) {
  check_float(op, x, "x");
  check_like(op, branch, "branch", x);
  check_shape(branch.shape() == x.shape(), "[", op, "] shapes differ: ", x.shape(), " and ", branch.shape());
}

// All four ops: branch and bias may be undefined. Gradients go to inputs x, branch, gain, bias in this order.
NormedSum norm(const char* op, NormKind kind, const Tensor& x, const Tensor& branch, const Tensor& gain,
               const Tensor& bias, float eps) {
  check_line(op, x, gain, "gain");
  check_shape(eps > 0, "[", op, "] eps is ", eps, ", must be above 0");
  const int64_t C = last_dim(x), R = rows_of(x);
  const bool layer = kind == NormKind::kLayer, fused = branch.defined();
  NormedSum out{fused ? empty_like(x) : Tensor(), empty_like(x)};
  const Tensor mean = layer ? Tensor::empty({R}) : Tensor(), rstd = Tensor::empty({R});
  launch(NormFwd{raw(x), raw(branch), raw(out.sum), raw(gain), raw(bias), raw(out.normed), f32(mean), f32(rstd), R, C,
                 eps, kind, x.dtype()});
  const Tensor normalised = fused ? out.sum.detach() : x.detach();
  const auto backward = [=, gain = gain.detach()](const Tensor& dsum, const Tensor& dy, GradSink& dx) {
    if (!dy.defined()) return dx.add(0, dsum), dx.add(1, dsum);
    const Fp32Grad dgain(dx, 2), dbias(dx, 3);
    const Tensor partial =
        dgain.wanted() || dbias.wanted() ? Tensor::empty({layer ? 2 : 1, norm_row_blocks(R), C}) : Tensor();
    const Tensor gx = reuse(dy);
    launch(NormBwd{raw(normalised), raw(gain), f32(mean), f32(rstd), raw(dy), raw(dsum), raw(gx), dgain.address(),
                   dbias.address(), f32(partial), R, C, dgain.accumulate, dbias.accumulate, kind, gx.dtype()});
    dgain.finish(), dbias.finish();
    dx.add(0, gx), dx.add(1, gx);
  };
  if (fused) {
    record(op, {x, branch, gain, bias}, {&out.sum, &out.normed},
           [backward](std::span<const Tensor> dy, GradSink& dx) { backward(dy[0], dy[1], dx); });
  } else {
    record(op, {x, branch, gain, bias}, {&out.normed},
           [backward](std::span<const Tensor> dy, GradSink& dx) { backward({}, dy[0], dx); });
  }
  return out;
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& gain, float eps) {
  return norm("rms_norm", NormKind::kRms, x, {}, gain, {}, eps).normed;
}

Tensor layer_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, float eps) {
  check_line("layer_norm", x, bias, "bias");
  return norm("layer_norm", NormKind::kLayer, x, {}, gain, bias, eps).normed;
}

NormedSum add_rms_norm(const Tensor& x, const Tensor& branch, const Tensor& gain, float eps) {
  check_branch("add_rms_norm", x, branch);
  return norm("add_rms_norm", NormKind::kRms, x, branch, gain, {}, eps);
}

NormedSum add_layer_norm(const Tensor& x, const Tensor& branch, const Tensor& gain, const Tensor& bias, float eps) {
  check_branch("add_layer_norm", x, branch);
  check_line("add_layer_norm", x, bias, "bias");
  return norm("add_layer_norm", NormKind::kLayer, x, branch, gain, bias, eps);
}

}  // namespace tpo
