#include "model/heads/region.h"

#include "core/ops/loss.h"
#include "core/ops/pointwise.h"

namespace tpo {

RegionHead::RegionHead(const ParamScope& s, int64_t width, const RegionConfig& c, const TensorParallel& tp)
    : fc1_(s.in_f32() / "fc1", width, c.hidden, Split::kNone, tp, Bias::kYes, fan_in_uniform(width)),
      fc2_(s.in_f32() / "fc2", c.hidden, 4, Split::kNone, tp, Bias::kYes, fan_in_uniform(c.hidden)) {}

Tensor RegionHead::operator()(const Tensor& e_RC) const { return fc2_(fc1_(e_RC, Activation::kRelu)); }

Tensor region_loss(const Tensor& pred_R4, const Tensor& target_R4, const RegionConfig& c, float scale) {
  if (c.mse) return mse_box_loss(pred_R4, target_R4, scale / 4);
  const Tensor l1 = l1_box_loss(pred_R4, target_R4, c.l1_weight * scale / 4);
  return add(l1, giou_box_loss(pred_R4, target_R4, c.giou_weight * scale));
}

}  // namespace tpo
