#pragma once
// Elements chosen by a mask. Operands f32 or bf16, all alike; a mask is u8, 0 or not, of the operands' shape.
// Errors: ShapeError naming the op, shapes and dtypes, before any effect. Each saves the mask alone.
#include "core/tape.h"

namespace tpo {

// mask ? a : b. The gradient goes to the operand that was chosen; the other one gets 0 there.
Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b);

// mask ? value : x, with gradient 0 where masked.
Tensor masked_fill(const Tensor& x, const Tensor& mask, float value);

}  // namespace tpo
