#pragma once
// Normalisation over the last dim, alone and fused with the residual sum before it. Operands are f32 or bf16, all
// alike; statistics are fp32. Errors: ShapeError naming op and shapes, before any effect.
#include "core/tape.h"

namespace tpo {

// Root-mean-square norm:  y[r,c] = gain[c] * x[r,c] / sqrt(mean_c(x[r,c]^2) + eps)
//   x (..., C)   gain (C)   eps > 0   -> (..., C).  Saves x, gain and one fp32 a row.
//   Source: Zhang and Sennrich 2019, arXiv:1910.07467.
Tensor rms_norm(const Tensor& x, const Tensor& gain, float eps = 1e-5f);

// Layer norm:  y[r,c] = gain[c] * (x[r,c] - mean_r) / sqrt(var_r + eps) + bias[c], var the mean squared deviation
//   x (..., C)   gain, bias (C)   eps > 0   -> (..., C).  Saves x, gain and two fp32 a row.
//   Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450.
Tensor layer_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, float eps);

// A residual sum and its norm in one pass: sum = x + branch, normed = norm(sum). In backward the gradient of the sum
// from elsewhere is added while that of the norm is formed. Saves sum, gain and the statistics.
struct NormedSum {
  Tensor sum, normed;  // (..., C)
};
NormedSum add_rms_norm(const Tensor& x, const Tensor& branch, const Tensor& gain, float eps = 1e-5f);
NormedSum add_layer_norm(const Tensor& x, const Tensor& branch, const Tensor& gain, const Tensor& bias, float eps);

}  // namespace tpo
