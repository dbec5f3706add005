#pragma once
// Rows by index. Values f32 or bf16, indices i32. An index out of range is a DataError that names its place and value,
// thrown before any effect (host tensors only; on meta values do not exist).
#include "core/tape.h"

namespace tpo {

// table (V, C), ids (N) -> (N, C). Backward adds rows in the order of ids, so that the sum does not depend on threads.
Tensor embedding(const Tensor& table, const Tensor& ids);

// The same with rows [first, first + V) of a table of `vocabulary` rows: an id outside of them gives a row of zeros.
// The results of all parts add up to the embedding.
Tensor embedding_part(const Tensor& table, const Tensor& ids, int64_t first, int64_t vocabulary);

// x (R, C), idx (K) -> (K, C). Rows may repeat. Backward as embedding.
Tensor gather_rows(const Tensor& x, const Tensor& idx);

// y[r] = sum over n with idx[n] = r of src[n], in the order of n, in fp32; 0 where no row goes.
//   src (N, C), idx (N) in [0, rows) -> (rows, C). Saves idx; backward is gather_rows.
Tensor scatter_add_rows(const Tensor& src, const Tensor& idx, int64_t rows);

// x (N, C) with row idx[k] replaced by row k of src (K, C). Indices must be distinct (DataError).
// The gradient of replaced rows goes to src; x gets zero there.
Tensor overwrite_rows(const Tensor& x, const Tensor& idx, const Tensor& src);

// x (1, C) or (C) repeated -> (n, C). Backward is the column sum.
Tensor broadcast_rows(const Tensor& x, int64_t n);

}  // namespace tpo
