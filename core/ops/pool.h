#pragma once
// Pooling of images (B, H, W, C); f32 or bf16. The conventions are those of PyTorch's max_pool2d and avg_pool2d
// (compared by hand with version 2.8).
#include <array>

#include "core/tape.h"

namespace tpo {

// Windows of each axis, {rows, columns}.
struct PoolSpec {
  std::array<int64_t, 2> kernel;            // >= 1
  std::array<int64_t, 2> stride;            // >= 1
  std::array<int64_t, 2> padding = {0, 0};  // on both sides; at most half the kernel
  bool ceil_mode = false;  // a last window that reaches beyond the padding is kept if it begins before it
};

// Outputs along one axis (0 or 1) of `in` elements: (in + 2 padding - kernel) / stride + 1, the quotient rounded down,
// or up in ceil_mode, where a last window that would begin in the padding behind the image is dropped.
int64_t pooled_size(const PoolSpec& spec, int axis, int64_t in);

// Maximum over each window; padding never wins. NaN wins. Of equal values the first of the window, row by row, is the
// maximum and gets the gradient.
//   x (B, H, W, C) -> (B, H', W', C), sizes by pooled_size. Kernels of at most 256 elements.
// Saves one byte an output, and only if x wants a gradient. Throws ShapeError.
Tensor max_pool2d(const Tensor& x, const PoolSpec& spec);

// Mean over each window. count_include_pad: padding counts as zeros (what reaches beyond the padding in ceil_mode never
// counts); otherwise the mean is over the pixels that exist. Saves nothing. Throws ShapeError.
//   x (B, H, W, C) -> (B, H', W', C), sizes by pooled_size.
Tensor avg_pool2d(const Tensor& x, const PoolSpec& spec, bool count_include_pad = true);

}  // namespace tpo
