#pragma once
#include "core/rng.h"
#include "core/tape.h"

namespace tpo {

// y[n,c] = keep(n, first_column + c) ? x[n,c] / (1 - p) : 0, so that the expectation of y is x.
//   keep(n,c) = uniform01(word c % 4 of philox(key, c / 4, row_ids[n])) >= p: a function of (key, row_ids[n], c) only,
//   whatever row of which rank holds it; a rank that holds columns from first_column on draws the mask of the whole.
//   The caller makes row_ids unique among rows that must differ, and keys unique among uses in a step. x (..., C) f32
//   or bf16 with N rows; the mask is the same for both   0 <= p < 1, no unit   row_ids (N) i64   ->
//   (..., C) p == 0 returns x itself. Saves row_ids alone: backward computes the mask again. Throws ShapeError if p,
//   the dtypes or the shapes do not fit, before any effect.
Tensor dropout(const Tensor& x, float p, RngKey key, const Tensor& row_ids, int64_t first_column = 0);

// Stochastic depth: rows are kept or dropped as a whole.
//   y[n,c] = keep(n) ? x[n,c] / (1 - p) : 0,   keep(n) = uniform01(word 0 of philox(key, 0, ids[n])) >= p
// Rows of one sample carry one id. Otherwise as dropout. Source: Huang et al. 2016, arXiv:1603.09382.
Tensor drop_path(const Tensor& x, float p, RngKey key, const Tensor& ids);

}  // namespace tpo
