#include "model/norm.h"

namespace tpo {

RmsNorm::RmsNorm(const ParamScope& scope, int64_t width, float eps, ProcessGroup* shards)
    : weight_(scope.param("weight", {width}, Init::constant(1)), shards), eps_(eps) {}

LayerNorm::LayerNorm(const ParamScope& scope, int64_t width, float eps, ProcessGroup* shards)
    : weight_(scope.param("weight", {width}, Init::constant(1)), shards),
      bias_(scope.param("bias", {width}, Init::constant(0)), shards),
      eps_(eps) {}

}  // namespace tpo
