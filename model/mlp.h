#pragma once
// Feed-forward blocks. N rows, C width, H hidden. x is the stream (TensorParallel), `rows` the N of all of it; H is cut
// over the tensor axis.
#include "model/lora.h"

namespace tpo {

// fc2(act(fc1(x))), both with bias; act is GELU, in its erf or its tanh form. Names: <scope>.fc1, <scope>.fc2.
class GeluMlp {
 public:
  GeluMlp(const ParamScope& scope, int64_t width, int64_t hidden, const TensorParallel& tp,
          Activation gelu = Activation::kGelu);
  Tensor operator()(const Tensor& x_NC, int64_t rows) const;

  const Linear& fc1() const { return fc1_; }
  const Linear& fc2() const { return fc2_; }

 private:
  TensorParallel tp_;
  Activation gelu_;
  Linear fc1_, fc2_;
};

// down(silu(gate(x)) * up(x)), no biases. Names: <scope>.gate, <scope>.up, <scope>.down.
// Source: Shazeer 2020, arXiv:2002.05202; the form of Mistral.
class SwigluMlp {
 public:
  SwigluMlp(const ParamScope& scope, int64_t width, int64_t hidden, const TensorParallel& tp, const Init& init,
            const LoraConfig& gate, const LoraConfig& up, const LoraConfig& down);
  Tensor operator()(const Tensor& x_NC, int64_t rows, const DropoutContext& dropout) const;

  const LoraLinear& gate() const { return gate_; }
  const LoraLinear& up() const { return up_; }
  const LoraLinear& down() const { return down_; }
  template <class F>
  void for_each_lora(F f) {
    f(gate_), f(up_), f(down_);
  }

 private:
  TensorParallel tp_;
  LoraLinear gate_, up_, down_;
};

}  // namespace tpo
