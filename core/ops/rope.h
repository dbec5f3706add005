#pragma once
// Rotary position embedding, half-split convention (GPT-NeoX; Mistral in transformers).
#include "core/tape.h"

namespace tpo {

// For each head, pair (i, i + D/2) is turned by the angle positions[n] * theta^(-2i/D):
//   y1 = x1 cos - x2 sin,  y2 = x2 cos + x1 sin
//   x (N, heads*D) fp32, D even; positions (N) i32 -> (N, heads*D). Backward is the inverse turn. Saves positions.
// Angles are formed in double and reduced before the fp32 series: the error does not grow with the position.
// Throws ShapeError. Source: Su et al. 2021, arXiv:2104.09864.
Tensor rope(const Tensor& x, const Tensor& positions, int64_t heads, float theta);

}  // namespace tpo
