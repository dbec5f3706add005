#pragma once
// What gradient clipping and the NaN guard need from a flat fp32 buffer. Never recorded. On meta nothing is read: the
// cost is counted and the result is that of a buffer of zeros. Throws ShapeError if the tensor is not f32.
#include <cstdint>

#include "core/tensor.h"

namespace tpo {

// Sum of squares in double, in an order fixed by the length: the same bits for any number of threads. It cannot
// overflow for finite input (squares of fp32 stay below 1.2e77), so the result is finite iff every element is.
double grad_sum_squares(const Tensor& flat);

// Elements that are NaN or inf.
int64_t count_non_finite(const Tensor& flat);
// True if every element is finite.
bool check_finite(const Tensor& flat);

// flat *= alpha
void scale_(Tensor& flat, float alpha);

// Factor for gradients whose global norm is `norm`: min(1, max_norm / norm); 1 if max_norm <= 0 (clipping off) or the
// norm is 0. NaN or inf in norm gives a factor that is NaN or 0: check before the update.
double clip_factor(double norm, double max_norm);

}  // namespace tpo
