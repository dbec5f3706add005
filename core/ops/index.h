#pragma once
// Elements of rows by index, along the last dim; whole rows stand in embedding.h. Values f32 or bf16, indices i32.
// Errors: ShapeError naming op and shapes; DataError naming place and value of an index out of range (host tensors
// only; on meta values do not exist). Both before any effect.
#include "core/tape.h"

namespace tpo {

// y[..., j] = x[..., idx[..., j]].   x (..., C), idx (..., K) of the same leading dims, in [0, C) -> (..., K)
// torch.gather of the last dim. Saves idx; backward is scatter_add_last.
Tensor gather_last(const Tensor& x, const Tensor& idx);

// y[k] = ids[idx[k]]: names of rows, as dropout wants them.   ids (N) i64, idx (K) in [0, N) -> (K) i64. Not recorded.
Tensor gather_ids(const Tensor& ids, const Tensor& idx);

// y[..., c] = sum over j with idx[..., j] = c of src[..., j], in the order of j.
//   src and idx (..., K), indices in [0, cols) -> (..., cols)
// torch.scatter_add of the last dim onto zeros. Saves idx; backward is gather_last.
Tensor scatter_add_last(const Tensor& src, const Tensor& idx, int64_t cols);

// The k largest of the last dim, largest first; of equal ones the lower index is first, NaN counts as the largest.
//   x (..., C), 1 <= k <= C -> values (..., k) stored as x, indices (..., k) i32
// Differentiable in the values (the selection is constant where it is unique). Saves indices.
struct TopK {
  Tensor values, indices;
};
TopK top_k(const Tensor& x, int64_t k);

// y[n, c] = 1 where c = idx[n], else 0.   idx (N) in [0, cols) -> (N, cols) of dtype f32 or bf16. Not recorded.
Tensor one_hot(const Tensor& idx, int64_t cols, DType dtype = DType::kF32);

}  // namespace tpo
