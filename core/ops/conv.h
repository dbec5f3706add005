#pragma once
// Convolutions of channels-last images. f32 or bf16, all operands alike, summed in fp32. Zero padding, the same on both
// sides; no dilation, groups only as depthwise_conv2d. All save x and w and, with an activation, what linear does. The
// gradients of w and bias are deferred work (GradSink::defer): both must be leaves or frozen when the tape is swept
// with Mode::kInputOnly. Formulas and sizes are PyTorch's, which calls convolution what is a correlation. Weights lie
// as the products read them; from PyTorch's layout they come by the permutations named below. Scratch is a tile per
// thread (kernels/conv.h), never the gathered windows of the batch. Errors: ShapeError naming the op and all shapes,
// before any effect.
#include "core/ops/matmul.h"

namespace tpo {

// A value for rows and one for columns, or one for both.
struct HeightWidth {
  int64_t h, w;
  HeightWidth(int64_t both) : h(both), w(both) {}
  HeightWidth(int64_t rows, int64_t columns) : h(rows), w(columns) {}
};

struct ConvSpec {
  HeightWidth stride = 1;  // >= 1
  HeightWidth pad = 0;     // >= 0
};

// y[b,i,j,o] = act(bias[o] + sum_{u,v,c} x[b, i s - p + u, j s - p + v, c] w[o,u,v,c])
//   x (B, H, W, C), w (O, kh, kw, C), bias (O) or undefined -> (B, floor((H + 2 p - kh) / s) + 1, likewise, O)
//   w = torch's (O, C, kh, kw) permuted (0, 2, 3, 1). A 1 x 1 kernel with stride 1 is `linear`.
Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias = {}, const ConvSpec& spec = {},
              Activation act = Activation::kNone);

struct ConvTransposeSpec {
  HeightWidth stride = 1;  // >= 1
  HeightWidth pad = 0;     // >= 0: cut from the result
  // In [0, stride): rows and columns added at the end, to choose among the sizes that conv2d maps to H, W.
  HeightWidth out_pad = 0;
};

// The adjoint of conv2d as a map of images:
// y[b,i,j,o] = act(bias[o] + sum x[b,m,n,c] w[c,u,v,o]) over all m s - p + u = i, n s - p + v = j
//   x (B, H, W, C), w (C, kh, kw, O), bias (O) or undefined -> (B, (H - 1) s - 2 p + kh + out_pad, likewise, O)
//   w = torch's (C, O, kh, kw) permuted (0, 2, 3, 1).
Tensor conv_transpose2d(const Tensor& x, const Tensor& w, const Tensor& bias = {}, const ConvTransposeSpec& spec = {},
                        Activation act = Activation::kNone);

// y[b,i,j,c] = bias[c] + sum_{u,v} x[b, i s - p + u, j s - p + v, c] w[u,v,c]
//   x (B, H, W, C), w (kh, kw, C), bias (C) or undefined -> (B, floor((H + 2 p - kh) / s) + 1, likewise, C)
//   w = torch's (C, 1, kh, kw), groups = C, permuted (2, 3, 0, 1) without the 1.
Tensor depthwise_conv2d(const Tensor& x, const Tensor& w, const Tensor& bias = {}, const ConvSpec& spec = {});

}  // namespace tpo
