#include "model/linear.h"

#include <cmath>

#include "parallel/comm/process_group.h"

namespace tpo {

Init fan_in_uniform(int64_t in) {
  const float a = 1.0f / std::sqrt(static_cast<float>(in));
  return Init::uniform(-a, a);
}

Linear::Linear(const ParamScope& scope, int64_t in, int64_t out, Split split, ProcessGroup& tp, Bias bias,
               const Init& init)
    : in_(in), out_(out), split_(split) {
  check<ConfigError>(split == Split::kNone || tp.size() == 1, "layer ", scope.prefix(), " is cut over ", tp.size(),
                     " tensor-parallel ranks, but this build cuts no layer; set the tensor axis to 1");
  weight_ = &scope.param("weight", {out, in}, init);
  if (bias == Bias::kYes) bias_ = &scope.param("bias", {out}, Init::constant(0));
}

Tensor Linear::operator()(const Tensor& x, Activation activation) const {
  const Tensor w = weight_->use();
  return linear(x, w, bias_ != nullptr ? bias_->use() : Tensor(), activation);
}

}  // namespace tpo
