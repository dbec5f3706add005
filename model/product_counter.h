#pragma once
// Adding up floating point operations: what a part of the model tells flops.cpp, in the order of its forward pass.
#include <functional>

#include "core/ops/attention.h"
#include "model/linear.h"

namespace tpo {

enum class Recompute;

// Each call returns whether the result wants a gradient.
class ProductCounter {
 public:
  virtual ~ProductCounter() = default;
  virtual bool linear(const Linear& layer, int64_t rows, bool x_wants) = 0;
  virtual bool attention(int64_t pairs, const AttentionSpec& spec, bool wants) = 0;
  // Attention and the projection `out` of `rows` behind it, in a block that is recomputed.
  virtual bool attention(int64_t pairs, const AttentionSpec& spec, bool wants, const Linear& out, int64_t rows,
                         Recompute mode) = 0;
  // Counts `block`, and its second run if there is one.
  virtual bool recomputed(Recompute mode, const std::function<bool()>& block) = 0;
};

}  // namespace tpo
