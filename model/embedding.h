#pragma once
// Token embedding with rows for tokens added to a base vocabulary.
#include "core/ops/embedding.h"
#include "core/param.h"

namespace tpo {

// Sets rows [base, end) of a table to the mean of rows [0, base), and, if they are to stay so, tells the optimizer
// (Param::frozen_rows_begin). Source: what the public model does when it grows its vocabulary.
// Requires: base >= 1. Does nothing to values on meta.
enum class AddedRows { kFrozen, kTrained };
void init_added_rows(Param& table, int64_t base, AddedRows mode);

// <scope>.weight (base + added, width).
class TokenEmbedding {
 public:
  TokenEmbedding(const ParamScope& scope, int64_t base, int64_t added, int64_t width, AddedRows mode, const Init& init);
  // ids (N) i32 -> (N, width).
  Tensor operator()(const Tensor& ids) const { return embedding(weight_->use(), ids); }
  Param& weight() const { return *weight_; }

 private:
  Param* weight_;
};

}  // namespace tpo
