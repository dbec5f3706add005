#pragma once
// Matrix products and the linear layer. Operands are f32 or bf16, all alike, summed in fp32. Where BLAS forms a product
// (kernels/gemm.h) it depends on the number of rows and threads in the last bits. One for an input that wants no
// gradient is skipped in backward. linear and linear_add_into are what Keep::kProducts (tape.h) keeps; linear keeps
// what it forms before the activation. Errors: ShapeError naming the op and all shapes, before any effect.
#include "core/tape.h"

namespace tpo {

// (M, K) x (K, N) -> (M, N). Backward: da = dy b^T, db = a^T dy. Saves a and b.
Tensor matmul_nn(const Tensor& a, const Tensor& b);
// (M, K) x (N, K) -> (M, N): b is used transposed. Backward: da = dy b, db = dy^T a.
Tensor matmul_nt(const Tensor& a, const Tensor& b);
// (K, M) x (K, N) -> (M, N): a is used transposed. Backward: da = b dy^T, db = a dy.
Tensor matmul_tn(const Tensor& a, const Tensor& b);

// What linear can apply to its result; the formulas are those of ops/pointwise.h (kGelu by erf).
enum class Activation : uint8_t { kNone, kRelu, kGelu, kGeluTanh, kSilu };

// y = act(x w^T + bias).   x (..., K), w (N, K), bias (N) or undefined -> (..., N)
// Saves x, w and, with an activation, the pre-activation (kRelu: the output).
// The gradients of w and bias are deferred work (GradSink::defer): both must be leaves or frozen when the tape is swept
// with Mode::kInputOnly.
Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias = {}, Activation act = Activation::kNone);

// base + alpha * x w^T, the second product of LoRA.   x (..., K), w (N, K), base (..., N) -> (..., N)
// Saves x and w. The gradient of w is deferred as in linear.
Tensor linear_add(const Tensor& x, const Tensor& w, const Tensor& base, float alpha);
// The same, written over base, which must be a result that nothing else reads, the backward of its op included: that of
// a linear without activation. Saves a copy and its memory.
Tensor linear_add_into(const Tensor& x, const Tensor& w, const Tensor& base, float alpha);

}  // namespace tpo
