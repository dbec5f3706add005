#pragma once
// Activations with a parameter, f32 or bf16, computed in fp32, stored as x.
// Throws ShapeError naming op and shapes, before any effect.
#include "core/tape.h"

namespace tpo {

// y[..., c] = x > 0 ? x : slope[c] x, or one slope for all.   x (..., C), slope (1) or (C), stored as x. Saves both;
// the slope is a weight, whose gradient sum of x dy over x <= 0 is formed in fp32 in the pass that makes dx. Source: He
// et al. 2015, arXiv:1502.01852. As torch's prelu.
Tensor prelu(const Tensor& x, const Tensor& slope);

// log(1 + e^(beta x)) / beta, x itself where beta x > threshold; beta > 0. Saves x. As torch's softplus. The logarithm
// of a sigmoid is -softplus(-x).
Tensor softplus(const Tensor& x, float beta = 1, float threshold = 20);

}  // namespace tpo
