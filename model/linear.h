#pragma once
// Linear: y = x w^T + bias, the layer that says in one word how it is cut over the tensor axis.
// Names: <scope>.weight (out, in), <scope>.bias (out). Weights decay, biases do not.
// Owns nothing: parameters belong to the ParamStore, which outlives every layer.
#include "core/ops/matmul.h"
#include "core/param.h"

namespace tpo {

class ProcessGroup;

// kColumn cuts the outputs, kRow the inputs, kNone keeps the whole weight on every rank.
enum class Split { kNone, kColumn, kRow };
enum class Bias { kNo, kYes };

// U(-1/sqrt(in), 1/sqrt(in)): kaiming_uniform with a = sqrt(5), the default of torch.nn.Linear and of peft's lora_A.
Init fan_in_uniform(int64_t in);

class Linear {
 public:
  // Throws ConfigError that names the layer if `split` is not kNone and tp has more than one rank.
  Linear(const ParamScope& scope, int64_t in, int64_t out, Split split, ProcessGroup& tp, Bias bias, const Init& init);

  // x (..., in) -> (..., out), the activation applied after the bias.
  Tensor operator()(const Tensor& x, Activation activation = Activation::kNone) const;

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  Split split() const { return split_; }
  Param& weight() const { return *weight_; }
  Param* bias() const { return bias_; }  // null without a bias

 private:
  int64_t in_, out_;
  Split split_;
  Param* weight_;
  Param* bias_ = nullptr;
};

}  // namespace tpo
