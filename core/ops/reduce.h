#pragma once
// Reductions of f32 or bf16, summed in fp32. The order of additions is fixed by the shape: results do not depend on the
// number of threads. Errors: ShapeError naming the op and the shape, before any effect.
#include "core/tape.h"

namespace tpo {

// Sum of all elements -> (1) f32, whatever the storage of x: it is a loss. An empty tensor gives 0. Saves nothing.
Tensor sum_all(const Tensor& x);

// y[o, c] = mean over g < group of x[o * group + g, c].   x (R, C), group >= 1 divides R -> (R / group, C).
// Saves nothing.
Tensor mean_pool_rows(const Tensor& x, int64_t group);

// Over all dims but the last:  y[c] = sum, or mean, over r of x[r, c].   x (..., C) of R rows -> (C). Saves nothing.
// The sum of no rows is 0, their mean is refused.
Tensor sum_rows(const Tensor& x);
Tensor mean_rows(const Tensor& x);

// Over the last dim:  y[...] = sum, or mean, over c of x[..., c].   x (..., C) -> (...), (1) for a vector. Saves
// nothing. The sum of no columns is 0, their mean is refused.
Tensor sum_last(const Tensor& x);
Tensor mean_last(const Tensor& x);

// The column of the maximum of each row, the smallest if several; NaN counts as the maximum.
// x (N, V), V >= 1 -> (N) i32. Not recorded.
Tensor argmax_rows(const Tensor& x);

}  // namespace tpo
