#include "model/heads/box_encoder.h"

namespace tpo {

BoxEncoder::BoxEncoder(const ParamScope& s, int64_t hidden, int64_t width, const TensorParallel& tp)
    : fc1_(s.in_f32() / "fc1", 4, hidden, Split::kNone, tp, Bias::kYes, fan_in_uniform(4)),
      fc2_(s.in_f32() / "fc2", hidden, width, Split::kNone, tp, Bias::kYes, fan_in_uniform(hidden)) {}

Tensor BoxEncoder::operator()(const Tensor& boxes_K4) const { return fc2_(fc1_(boxes_K4, Activation::kRelu)); }

}  // namespace tpo
