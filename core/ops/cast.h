#pragma once
// Change of storage, recorded.
#include "core/tape.h"

namespace tpo {

// x in another floating-point storage, rounded to nearest even if narrower; x itself if it has that dtype already.
//   x (...) f32 or bf16 -> (...) dtype. Saves nothing; the gradient is dy in x's storage.
//   Throws ShapeError if a dtype is not a floating-point one.
Tensor cast(const Tensor& x, DType dtype);

}  // namespace tpo
