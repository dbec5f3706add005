#pragma once
// Rotary position embeddings. f32 or bf16; angles are formed in double and reduced before the fp32 series, so that the
// error does not grow with the position. The backward is the inverse turn. Both save the positions and throw
// ShapeError. Source: Su et al. 2021, arXiv:2104.09864.
#include "core/tape.h"

namespace tpo {

// Half-split convention (GPT-NeoX; Mistral in transformers). For each head, pair (i, i + D/2) is turned by the angle
// positions[n] * theta^(-2i/D):   y1 = x1 cos - x2 sin,  y2 = x2 cos + x1 sin
//   x (N, heads*D), D even; positions (N) i32 -> (N, heads*D).
Tensor rope(const Tensor& x, const Tensor& positions, int64_t heads, float theta);

// Axial, interleaved convention (memory attention of SAM 2). For each head, pair (2i, 2i + 1) is turned by the angle
//   positions[n, 0] * theta^(-4i/D)  for i < D/4 (the column, "x"),  positions[n, 1] * theta^(-4(i - D/4)/D) for the
//   other half (the row, "y").
//   x (N, heads*D), D divisible by 4; positions (N, 2) i32 -> (N, heads*D).
// Position (0, 0) leaves a row as it is, which is what object pointers and other tokens without a place get.
// Source: Ravi et al. 2024, arXiv:2408.00714.
Tensor rope_2d(const Tensor& x, const Tensor& positions, int64_t heads, float theta);

}  // namespace tpo
