#include "core/ops/conv.h"

#include "core/kernels/conv.h"
#include "core/kernels/depthwise.h"
#include "core/kernels/gemm.h"
#include "core/launch.h"
#include "core/ops/activation.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

void check_operands(const char* op, const Tensor& x, const Tensor& w, int w_rank, const char* w_layout) {
  check_float(op, x, "x");
  check_like(op, w, "w", x);
  check_shape(x.rank() == 4 && w.rank() == w_rank, "[", op, "] x ", x.shape(), " must be (B, H, W, C) and w ",
              w.shape(), " ", w_layout);
  check_shape(x.dim(3) >= 1 && w.numel() >= 1, "[", op, "] x ", x.shape(), " has no channels or w ", w.shape(),
              " no elements");
}

void check_bias(const char* op, const Tensor& bias, const Tensor& x, int64_t channels) {
  if (!bias.defined()) return;
  check_like(op, bias, "bias", x);
  check_shape(bias.shape() == Shape{channels}, "[", op, "] bias ", bias.shape(), " must be (", channels, ")");
}

void check_steps(const char* op, HeightWidth stride, HeightWidth pad) {
  check_shape(stride.h >= 1 && stride.w >= 1 && pad.h >= 0 && pad.w >= 0, "[", op, "] stride ", stride.h, " x ",
              stride.w, " must be positive and pad ", pad.h, " x ", pad.w, " not negative");
}

// Geometry of a dim from the image's side. Requires: stride >= 1.
ConvAxis axis(const char* op, int64_t image, int64_t kernel, int64_t stride, int64_t pad) {
  check_shape(image >= 1 && image + 2 * pad >= kernel, "[", op, "] image extent ", image, " with pad ", pad,
              " on both sides must be positive and hold the kernel's ", kernel);
  return {image, kernel, stride, pad, (image + 2 * pad - kernel) / stride + 1};
}

template <class K>
void launch_with_scratch(K kernel) {
  const Tensor scratch = Tensor::empty({kernel.scratch_floats()});
  kernel.scratch = f32(scratch);
  launch(kernel);
}

// The gradient of the weight (input 1) from the image and the map, and of the bias (input 2) from dy.
void defer_grads(GradSink& dx, const ConvShape& s, const Tensor& image, const Tensor& map, const Tensor& dy) {
  if (!dx.wants(1) && !dx.wants(2)) return;
  dx.defer([s, image, map, dy](GradSink& weights) {
    fp32_destination(weights, 1, [&](const Tensor& g, bool accumulate) {
      launch_with_scratch(ConvWeightGrad{s, raw(image), raw(map), f32(g), accumulate, image.dtype()});
    });
    fp32_destination(weights, 2, [&](const Tensor& g, bool accumulate) {
      launch(ColumnSums{raw(dy), f32(g), rows_of(dy), last_dim(dy), accumulate, dy.dtype()});
    });
  });
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvSpec& spec, Activation act) {
  check_operands("conv2d", x, w, 4, "(O, kh, kw, C)");
  check_shape(x.dim(3) == w.dim(3), "[conv2d] x ", x.shape(), " and w ", w.shape(), " must have the same last dim");
  check_bias("conv2d", bias, x, w.dim(0));
  check_steps("conv2d", spec.stride, spec.pad);
  const ConvShape s{x.dim(0), x.dim(3), w.dim(0), axis("conv2d", x.dim(1), w.dim(1), spec.stride.h, spec.pad.h),
                    axis("conv2d", x.dim(2), w.dim(2), spec.stride.w, spec.pad.w)};
  if (s.h.kernel == 1 && s.w.kernel == 1 && s.h.out == x.dim(1) && s.w.out == x.dim(2) && spec.pad.h + spec.pad.w == 0)
    return linear(x, w.view({w.dim(0), w.dim(3)}), bias, act);
  Tensor z = take_kept();
  if (!z.defined()) {
    z = Tensor::empty({s.batch, s.h.out, s.w.out, s.out_channels}, x.dtype());
    launch_with_scratch(ConvWindows{s, raw(x), raw(w), raw(bias), raw(z), false, x.dtype(), z.dtype()});
    keep(z, act != Activation::kNone);
  }
  const FusedActivation fused(act, z, any_wants_grad({x, w, bias}));
  Tensor y = fused.y();
  record("conv2d", {x, w, bias}, {&y},
         [s, x = x.detach(), w = w.detach(), at_z = fused.backward()](std::span<const Tensor> dy, GradSink& dx) {
           const Tensor dz = at_z(dy[0]);
           if (dx.wants(0)) {
             const GradDest d = dx.destination(0);
             launch_with_scratch(
                 ConvAdjoint{s, raw(dz), raw(w), nullptr, raw(d.grad), d.accumulate, w.dtype(), d.grad.dtype()});
           }
           defer_grads(dx, s, x, dz, dz);
         });
  return y;
}

Tensor conv_transpose2d(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvTransposeSpec& spec,
                        Activation act) {
  const char* op = "conv_transpose2d";
  check_operands(op, x, w, 4, "(C, kh, kw, O)");
  check_shape(x.dim(3) == w.dim(0), "[", op, "] last dim of x ", x.shape(), " must equal the first of w ", w.shape());
  check_bias(op, bias, x, w.dim(3));
  check_steps(op, spec.stride, spec.pad);
  check_shape(x.dim(1) >= 1 && x.dim(2) >= 1, "[", op, "] x ", x.shape(), " has no positions");
  const auto extent = [&](int64_t n, int64_t kernel, int64_t stride, int64_t pad, int64_t out_pad) {
    const int64_t image = (n - 1) * stride - 2 * pad + kernel + out_pad;
    check_shape(out_pad >= 0 && out_pad < stride && image >= 1, "[", op, "] x ", x.shape(), ", w ", w.shape(), ", pad ",
                pad, ": out_pad ", out_pad, " must be in 0..", stride - 1, " and the result not empty, is ", image);
    return ConvAxis{image, kernel, stride, pad, n};
  };
  const ConvShape s{x.dim(0), w.dim(3), x.dim(3), extent(x.dim(1), w.dim(1), spec.stride.h, spec.pad.h, spec.out_pad.h),
                    extent(x.dim(2), w.dim(2), spec.stride.w, spec.pad.w, spec.out_pad.w)};
  Tensor z = take_kept();
  if (!z.defined()) {
    z = Tensor::empty({s.batch, s.h.image, s.w.image, s.channels}, x.dtype());
    launch_with_scratch(ConvAdjoint{s, raw(x), raw(w), raw(bias), raw(z), false, x.dtype(), z.dtype()});
    keep(z, act != Activation::kNone);
  }
  const FusedActivation fused(act, z, any_wants_grad({x, w, bias}));
  Tensor y = fused.y();
  record(op, {x, w, bias}, {&y},
         [s, x = x.detach(), w = w.detach(), at_z = fused.backward()](std::span<const Tensor> dy, GradSink& dx) {
           const Tensor dz = at_z(dy[0]);
           if (dx.wants(0)) {
             const GradDest d = dx.destination(0);
             launch_with_scratch(
                 ConvWindows{s, raw(dz), raw(w), nullptr, raw(d.grad), d.accumulate, w.dtype(), d.grad.dtype()});
           }
           defer_grads(dx, s, dz, x, dz);
         });
  return y;
}

Tensor depthwise_conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvSpec& spec) {
  const char* op = "depthwise_conv2d";
  check_operands(op, x, w, 3, "(kh, kw, C)");
  check_shape(x.dim(3) == w.dim(2), "[", op, "] x ", x.shape(), " and w ", w.shape(), " must have the same last dim");
  check_bias(op, bias, x, w.dim(2));
  check_steps(op, spec.stride, spec.pad);
  const DepthwiseShape s{x.dim(0), x.dim(3), axis(op, x.dim(1), w.dim(0), spec.stride.h, spec.pad.h),
                         axis(op, x.dim(2), w.dim(1), spec.stride.w, spec.pad.w)};
  Tensor y = Tensor::empty({s.batch, s.h.out, s.w.out, s.channels}, x.dtype());
  launch_with_scratch(Depthwise{s, raw(x), raw(w), raw(bias), raw(y), false, false, x.dtype(), y.dtype()});
  record(op, {x, w, bias}, {&y}, [s, x = x.detach(), w = w.detach()](std::span<const Tensor> dy, GradSink& dx) {
    if (dx.wants(0)) {
      const GradDest d = dx.destination(0);
      launch_with_scratch(
          Depthwise{s, raw(dy[0]), raw(w), nullptr, raw(d.grad), true, d.accumulate, w.dtype(), d.grad.dtype()});
    }
    if (!dx.wants(1) && !dx.wants(2)) return;
    dx.defer([s, x, dy = dy[0]](GradSink& weights) {
      const Fp32Grad dw(weights, 1), db(weights, 2);
      launch_with_scratch(
          DepthwiseWeightGrad{s, raw(x), raw(dy), dw.address(), db.address(), dw.accumulate, db.accumulate, x.dtype()});
      dw.finish();
      db.finish();
    });
  });
  return y;
}

}  // namespace tpo
