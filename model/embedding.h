#pragma once
// Token embedding with rows for tokens added to a base vocabulary. Over the tensor axis each rank holds a part of the
// rows.
#include "core/ops/embedding.h"
#include "parallel/tensor/cut.h"
#include "parallel/tensor/tensor_parallel.h"

namespace tpo {

// Sets rows [base, end) of a table to the mean of rows [0, base), and, if they are to stay so, tells the optimizer
// (Param::frozen_rows_begin, in rows of the part). Source: what the public model does when it grows its vocabulary.
// `rows`: those of the whole table that the value is. Collective if tp has several ranks: they add in double one after
// the other, in the order of rows, so that the mean has the bits of that of one rank.
// Requires: base >= 1. Does nothing to values on meta.
enum class AddedRows { kFrozen, kTrained };
void init_added_rows(Param& table, int64_t base, AddedRows mode, const Range& rows, ProcessGroup& tp);

// <scope>.weight (base + added, width).
class TokenEmbedding {
 public:
  TokenEmbedding(const ParamScope& scope, int64_t base, int64_t added, int64_t width, AddedRows mode, const Init& init,
                 const TensorParallel& tp);
  // ids (N) i32 -> (N, width), whole.
  Tensor operator()(const Tensor& ids) const;
  Param& weight() const { return *weight_; }

 private:
  TensorParallel tp_;
  Range rows_;  // of this rank
  Param* weight_;
};

}  // namespace tpo
