#pragma once
// Reductions over segments of packed rows, and cumulative sums. Values f32 or bf16, summed in fp32 in the order of
// rows. Errors: ShapeError naming op and shapes; DataError naming place and value if cu does not rise from 0 to N (host
// tensors only). Both before any effect.
#include "core/tape.h"

namespace tpo {

// y[s, c] = sum, mean or maximum over rows n in [cu[s], cu[s+1]) of x[n, c].
//   x (N, C), cu (S + 1) i32 -> (S, C)
// A segment without rows gives 0 in all three, and nobody a gradient. Backward of the maximum goes to its first row;
// NaN counts as the maximum. Sum and mean save cu, max saves cu and one i32 an element of the result.
Tensor segment_sum(const Tensor& x, const Tensor& cu);
Tensor segment_mean(const Tensor& x, const Tensor& cu);
Tensor segment_max(const Tensor& x, const Tensor& cu);

// What a cumulative sum at i takes in: everything up to i, or everything before it (0 at the first place).
enum class Cumulate : uint8_t { kInclusive, kExclusive };

// Along the last dim:  y[..., i] = sum over j <= i (or j < i) of x[..., j].   (..., C) -> (..., C)
// Saves nothing; backward is the cumulative sum from the other end.
Tensor cumsum_last(const Tensor& x, Cumulate kind = Cumulate::kInclusive);
// Along the first dim:  y[i, c] = sum over j <= i (or j < i) of x[j, c].   (R, ...) -> (R, ...)
Tensor cumsum_rows(const Tensor& x, Cumulate kind = Cumulate::kInclusive);

}  // namespace tpo
