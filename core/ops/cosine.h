#pragma once
// Rows by their Euclidean length over the last dim. f32 or bf16, all operands alike, sums in fp32. A row shorter than
// eps > 0 counts as of length eps, and then the length has no gradient: the derivative of what is computed. torch's
// normalize does so too; its cosine_similarity lets that gradient through.
// Throws ShapeError naming op and shapes, before any effect.
#include "core/tape.h"

namespace tpo {

// y = x / max(|x|, eps).   x (..., C) -> like x. Saves y and an f32 per row. As torch's normalize.
Tensor normalize_rows(const Tensor& x, float eps = 1e-12f);

// y = a b / (max(|a|, eps) max(|b|, eps)).   a, b (..., C) -> (...), or (1) for one row. Saves a, b and three f32 per
// row; gradients to both.
Tensor cosine_similarity(const Tensor& a, const Tensor& b, float eps = 1e-8f);

}  // namespace tpo
