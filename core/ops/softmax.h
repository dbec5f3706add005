#pragma once
#include "core/tape.h"

namespace tpo {

// Softmax over the last dim:  y[r,c] = e^(x[r,c] - max_c x) / sum_c e^(x[r,c] - max_c x).   x (..., C) f32, C >= 1.
// Elements more than 86.6 below the row's maximum give exactly 0. Saves y.
// Errors: ShapeError naming the op and the shape, before any effect.
Tensor softmax(const Tensor& x);

}  // namespace tpo
