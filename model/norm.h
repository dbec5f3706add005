#pragma once
// Norm layers: an op with its parameters. Gains start at 1, biases at 0, neither decays. `shards`: the group over which
// rows are cut, whose gradients are summed (TensorParallel::stream_group); null: every rank has all rows.
#include "core/ops/norm.h"
#include "parallel/tensor/summed_param.h"

namespace tpo {

// <scope>.weight (width). x (..., width).
class RmsNorm {
 public:
  RmsNorm(const ParamScope& scope, int64_t width, float eps, ProcessGroup* shards = nullptr);
  Tensor operator()(const Tensor& x) const { return rms_norm(x, weight_.use(), eps_); }
  // The residual sum x + branch and its norm, in one pass.
  NormedSum after_sum(const Tensor& x, const Tensor& branch) const {
    return add_rms_norm(x, branch, weight_.use(), eps_);
  }
  bool trains() const { return weight().trainable; }
  Param& weight() const { return weight_.param(); }

 private:
  SummedParam weight_;
  float eps_;
};

// <scope>.weight and <scope>.bias (width). x (..., width).
class LayerNorm {
 public:
  LayerNorm(const ParamScope& scope, int64_t width, float eps, ProcessGroup* shards = nullptr);
  Tensor operator()(const Tensor& x) const {
    const Tensor gain = weight_.use();
    return layer_norm(x, gain, bias_.use(), eps_);
  }
  NormedSum after_sum(const Tensor& x, const Tensor& branch) const {
    const Tensor gain = weight_.use();
    return add_layer_norm(x, branch, gain, bias_.use(), eps_);
  }
  bool trains() const { return weight().trainable || bias_.param().trainable; }
  Param& weight() const { return weight_.param(); }

 private:
  SummedParam weight_, bias_;
  float eps_;
};

}  // namespace tpo
