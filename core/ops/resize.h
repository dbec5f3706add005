#pragma once
// Images (B, H, W, C) at another size; f32 or bf16, sums in fp32. The conventions are those of PyTorch's
// torch.nn.functional.interpolate with `size` given (compared by hand with version 2.8).
#include "core/kernels/resample.h"
#include "core/tape.h"

namespace tpo {

enum class ResizeMode : uint8_t { kNearest, kBilinear, kBicubic };

struct ResizeSpec {
  ResizeMode mode = ResizeMode::kBilinear;
  // false: pixels are areas, output o lies at (o + 1/2) in/out - 1/2. true: pixels are points and the corner points of
  // both images coincide, output o lies at o (in - 1) / (out - 1). Not defined for kNearest.
  bool align_corners = false;
  // Widens the filter where an axis shrinks, as image libraries do before a model sees a picture. Not defined for
  // kNearest. With align_corners the step is (in - 1) / (out - 1) and s = step (o + 1/2) - 1/2, as PyTorch has it: the
  // corners then coincide only without antialias.
  bool antialias = false;
};

// y[b,o,p,c] = sum_ij h[o,i] w[p,j] x[b,i,j,c], where along each axis, with s the position of the output in the input:
//   kNearest   1 at floor(o in/out), formed in fp32
//   kBilinear  max(0, 1 - |s - i|)
//   kBicubic   the cubic convolution of Keys 1981 over the four inputs around s, a = -0.75
// and inputs outside the image repeat its border. With antialias the filter (for kBicubic a = -0.5) is stretched by
// max(1, step) with the step between outputs, in/out, and weights outside the image are left out and the others divided
// by their sum.
//   x (B, H, W, C); height, width >= 1 -> (B, height, width, C). Any sizes; one axis may stay as it is.
// To resize along one axis of a table (T, C), view it as (1, T, 1, C). Saves nothing; the gradient is the transposed
// sum, gathered. Throws ShapeError.
Tensor resize(const Tensor& x, int64_t height, int64_t width, const ResizeSpec& spec = {});

// Launches the resampling of x by the given axes and records its adjoint: the common part of resize and avg_pool2d.
// Requires: x (B, h.in, w.in, C), checked.
Tensor resample(const char* op, const Tensor& x, const ResampleAxis& h, const ResampleAxis& w);

}  // namespace tpo
