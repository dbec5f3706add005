#pragma once
// Matching of predictions to targets at the least total cost, of fixed shape: how many targets are real is a value, not
// a shape, and nothing is read back to the host. Not recorded: the matching is data for the losses behind it.
#include "core/tensor.h"

namespace tpo {

struct Matching {
  Tensor query;   // (B, T) i32: the query of each target, -1 where there is none
  Tensor target;  // (B, Q) i32: the inverse
  Tensor row;  // (B T) i32: b Q + query, or b Q where there is none: rows of (B Q, ..) to gather, to be given weight 0
};

// costs (B, Q, T) f32 or bf16, counts (B) i32 in 0..T: the first counts[b] targets of b are real. min(Q, counts[b])
// pairs have least total cost, found in double; equal totals are decided by the order of queries and targets alone, the
// same on every device and for any number of threads. Errors: ShapeError; DataError naming the batch for a count out of
// range or a cost of a real target that is not finite (host tensors only; elsewhere such a batch gets no pairs).
// Source: Jonker and Volgenant, Computing 38 (1987).
Matching hungarian_match(const Tensor& costs, const Tensor& counts);

// (B Q) i32: the class of the target a query has, else `background`. classes (B, T) i32.
Tensor match_labels(const Matching& matching, const Tensor& classes, int32_t background);

}  // namespace tpo
