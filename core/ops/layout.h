#pragma once
// Rearrangements: rows joined and cut, matrices transposed, images cut into patches. A reshape is Tensor::view.
// f32 or bf16; concat_rows and slice_rows take any dtype (gradients for those two). Nothing is saved.
// Errors: ShapeError naming op and shapes, before any effect.
#include <vector>

#include "core/tape.h"

namespace tpo {

// Parts (R_i, ...) of equal dtype and trailing shape, one after the other -> (sum R_i, ...). At least one part.
// The gradients of the parts share the memory of dy.
Tensor concat_rows(const std::vector<Tensor>& parts);

// Rows [begin, end) of the first dim. The result shares x's memory.
Tensor slice_rows(const Tensor& x, int64_t begin, int64_t end);

// (R, C) -> (C, R), or each of a batch: (B, R, C) -> (B, C, R)
Tensor transpose(const Tensor& x);

// (A, B, C, D) -> (A, C, B, D): heads before tokens and back, y[a, c, b, :] = x[a, b, c, :].
Tensor swap_middle(const Tensor& x);

// Parts (..., C_i) of equal dtype and leading dims, side by side -> (..., sum C_i). At least one part.
Tensor concat_last(const std::vector<Tensor>& parts);

// The inverse: x (..., C) cut into parts (..., widths[i]) in this order; the widths add to C. A part that nothing uses
// has gradient 0.
std::vector<Tensor> split_last(const Tensor& x, const std::vector<int64_t>& widths);

// Cuts images or clips into patches of `tubelet` frames by `patch` x `patch` pixels, one a row. Pixels beyond the last
// whole patch, at the bottom and at the right, are left out, as by a convolution with the patch as its stride.
//   images (I, T, H, W, C), tubelet divides T, patch is at most H and W
//   -> (I * T/tubelet * floor(H/patch) * floor(W/patch), tubelet * patch * patch * C)
//   rows in the order (image, time, row, column), inside a patch (time, row, column, channel).
Tensor patchify(const Tensor& images, int64_t patch, int64_t tubelet);

// Joins m x m neighbours of token grids into one longer row:  x (I * h * w, C), m divides h and w
//   -> (I * h/m * w/m, m * m * C), inside a row (row, column, channel).
Tensor merge_patches(const Tensor& x, int64_t h, int64_t w, int64_t m);

}  // namespace tpo
