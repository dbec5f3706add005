#pragma once
// Elementwise ops. Operands are f32 or bf16, all alike; arithmetic is fp32, the result is stored as they are. There is
// no broadcasting: operands have the same shape, but for add_bias. Errors: ShapeError naming the op, shapes and dtypes
// if they do not fit, before any effect. Gradients reuse the memory of dy where nobody else holds it.
#include "core/tape.h"

namespace tpo {

// a + b, a - b, a * b of equal shapes. add and sub save nothing, mul saves both.
Tensor add(const Tensor& a, const Tensor& b);
// a + b written over b, which must be a result that nothing else reads, the backward of its op included: that of a
// matrix product. Saves memory, and lets a recomputed block that ends in it leave that product out (tape.h).
Tensor add_into(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);

// a / b. Saves both.
Tensor div(const Tensor& a, const Tensor& b);
// The smaller or larger of each pair. Equal operands get half the gradient each, as in torch. Save both.
Tensor minimum(const Tensor& a, const Tensor& b);
Tensor maximum(const Tensor& a, const Tensor& b);

// min(max(x, lo), hi); derivative 1 in [lo, hi], else 0. lo <= hi. Saves x.
Tensor clamp(const Tensor& x, float lo, float hi);

// alpha * x. Saves nothing.
Tensor scale(const Tensor& x, float alpha);

// y[..., c] = x[..., c] + bias[c].   x (..., C), bias (C). Saves nothing; dbias is the column sum of dy.
Tensor add_bias(const Tensor& x, const Tensor& bias);

// y[b, ...] = x[b, ...] + table[0, ...]: the same table, of positions say, for every entry of the batch.
//   x (B, ...), table (1, ...) of the other extents -> (B, ...). Saves nothing; dtable is the sum of dy over the batch.
Tensor add_table(const Tensor& x, const Tensor& table);

// max(x, 0); derivative 0 at 0. Saves y.
Tensor relu(const Tensor& x);
// x * Phi(x) with the normal distribution function Phi by erf (absolute error of Phi below 2e-7). Saves x.
Tensor gelu(const Tensor& x);
// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). Saves x. Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
Tensor gelu_tanh(const Tensor& x);
// x sigmoid(x). Saves x.
Tensor silu(const Tensor& x);
// 1 / (1 + e^-x). Saves y.
Tensor sigmoid(const Tensor& x);

// silu(gate) * up, one pass forward and one backward. Saves gate and up. Source: Shazeer 2020, arXiv:2002.05202.
Tensor swiglu(const Tensor& gate, const Tensor& up);

}  // namespace tpo
