#pragma once
// Softmax over the last dim. x (..., C) f32 or bf16 with C >= 1; arithmetic is fp32, y is stored as x and saved.
// Errors: ShapeError naming the op and the shape, before any effect.
#include "core/tape.h"

namespace tpo {

// y[r,c] = e^(x[r,c] - max_c x) / sum_c e^(x[r,c] - max_c x).
// Elements more than 86.6 below the row's maximum give exactly 0. A row of nothing but minus infinity gives NaN, as in
// torch: a row without candidates is the caller's to leave out.
Tensor softmax(const Tensor& x);

// y[r,c] = x[r,c] - max_c x - log sum_c e^(x[r,c] - max_c x).
Tensor log_softmax(const Tensor& x);

}  // namespace tpo
