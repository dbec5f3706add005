#pragma once
// Encodings of positions without parameters: constants of a shape, generated on the device, without a gradient.
// For positions inside attention see ops/rope.h.
#include "core/tape.h"

namespace tpo {

// The sine code of position p of n along an axis, F features:
//   code[2i] = sin(a t^(-2i/F)), code[2i + 1] = cos(a t^(-2i/F)),  a = first + p, times 2 pi / (first + n - 1 + 1e-6)
//   if unit_scale, so that the last position is at 2 pi.
// The defaults are those of DETR, CG-DETR and SAM 2; {F, 10000, false, 0} is the table of the Transformer.
struct SineSpec {
  int64_t features;            // of one axis; even
  double temperature = 10000;  // t > 0
  bool unit_scale = true;
  double first = 1;  // position of the first element
};

// (length, features) in dtype. Throws ShapeError.
//   Source: Vaswani et al. 2017, arXiv:1706.03762.
Tensor sine_encoding(int64_t length, const SineSpec& spec, DType dtype = DType::kF32);

// (height, width, 2 features) in dtype: the code of the row, then that of the column. Throws ShapeError.
//   Source: Carion et al. 2020, arXiv:2005.12872.
Tensor sine_encoding_2d(int64_t height, int64_t width, const SineSpec& spec, DType dtype = DType::kF32);

// Random Fourier features of points in the unit cube: [sin(a), cos(a)] with a = 2 pi (2 points - 1) frequencies.
//   points (N, D) f32 in [0, 1], frequencies (D, F) f32, usually normal -> (N, 2F) f32.
// No gradient: points and frequencies are data. Saves nothing. Throws ShapeError.
//   Source: Tancik et al. 2020, arXiv:2006.10739, as in the prompt encoder of SAM, arXiv:2304.02643.
Tensor fourier_encoding(const Tensor& points, const Tensor& frequencies);

}  // namespace tpo
