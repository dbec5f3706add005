#pragma once
// Linear: y = x w^T + bias, the layer that says in one word how it is cut over the tensor axis.
// Names: <scope>.weight (out, in), <scope>.bias (out). Weights decay, biases do not.
// Owns nothing: parameters belong to the ParamStore, which outlives every layer.
#include <optional>

#include "core/ops/matmul.h"
#include "core/param.h"
#include "parallel/tensor/cut.h"
#include "parallel/tensor/summed_param.h"
#include "parallel/tensor/tensor_parallel.h"

namespace tpo {

// kColumn cuts the outputs, kRow the inputs, kNone keeps the whole weight on every rank.
enum class Split { kNone, kColumn, kRow };
enum class Bias { kNo, kYes };

// U(-1/sqrt(in), 1/sqrt(in)): kaiming_uniform with a = sqrt(5), the default of torch.nn.Linear and of peft's lora_A.
Init fan_in_uniform(int64_t in);

class Linear {
 public:
  // `cut` without ranges: balanced. Throws ConfigError that names the layer if a rank would hold nothing.
  Linear(const ParamScope& scope, int64_t in, int64_t out, Split split, const TensorParallel& tp, Bias bias,
         const Init& init, Cut cut = {});

  // x (..., in), cast to the storage of the weight if it has another -> (..., out) in that storage, the activation
  // applied after the bias. In the parts that this rank holds:
  //   kColumn  x is whole (TensorParallel::enter) -> this rank's outputs
  //   kRow     x are this rank's inputs, (N, local_in) -> the stream (TensorParallel::leave); no activation
  Tensor operator()(const Tensor& x, Activation activation = Activation::kNone) const;
  // Its two halves, for what is added in between: the product, for kRow a share of a sum without bias, and the sum.
  Tensor product(const Tensor& x, Activation activation = Activation::kNone) const;
  Tensor finish(const Tensor& y) const;

  int64_t in() const { return in_; }  // of the whole layer
  int64_t out() const { return out_; }
  int64_t local_in() const { return split_ == Split::kRow && cut_over_ranks() ? cut_.size() : in_; }
  int64_t local_out() const { return split_ == Split::kColumn && cut_over_ranks() ? cut_.size() : out_; }
  // First input of this rank.
  int64_t first_in() const { return split_ == Split::kRow && cut_over_ranks() ? cut_.ranges[0].begin : 0; }
  Split split() const { return split_; }
  const Cut& cut() const { return cut_; }  // no ranges: whole
  Param& weight() const { return weight_.param(); }
  Tensor use_weight() const { return weight_.use(); }
  Param* bias() const { return bias_ ? &bias_->param() : nullptr; }  // null without a bias

 private:
  bool cut_over_ranks() const { return !cut_.ranges.empty(); }
  Param& make_weight(const ParamScope& scope, const Init& init) const;
  SummedParam make_bias(const ParamScope& scope) const;

  int64_t in_, out_;
  Split split_;
  TensorParallel tp_;
  Cut cut_;
  SummedParam weight_;
  std::optional<SummedParam> bias_;
};

}  // namespace tpo
