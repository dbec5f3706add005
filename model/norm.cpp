#include "model/norm.h"

namespace tpo {

RmsNorm::RmsNorm(const ParamScope& scope, int64_t width, float eps)
    : weight_(&scope.param("weight", {width}, Init::constant(1))), eps_(eps) {}

LayerNorm::LayerNorm(const ParamScope& scope, int64_t width, float eps)
    : weight_(&scope.param("weight", {width}, Init::constant(1))),
      bias_(&scope.param("bias", {width}, Init::constant(0))),
      eps_(eps) {}

}  // namespace tpo
