#include "model/lora.h"

#include "core/kernels/basic.h"
#include "core/launch.h"
#include "core/ops/dropout.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"

namespace tpo {

namespace {

Tensor drop(const Tensor& x, float p, RngKey site, const DropoutContext& context) {
  if (p == 0 || !context.row_ids.defined()) return x;
  return dropout(x, p, context.key.with(site.value), context.row_ids);
}

}  // namespace

LoraLinear::LoraLinear(const ParamScope& scope, int64_t in, int64_t out, Split split, ProcessGroup& tp, Bias bias,
                       const Init& init, const LoraConfig& lora)
    : base_(scope, in, out, split, tp, bias, init), dropout_(lora.dropout), site_(hash_name(scope.prefix())) {
  if (lora.rank == 0) return;
  scale_ = lora.alpha / static_cast<float>(lora.rank);
  a_ = &scope.param("lora_a", {lora.rank, in}, fan_in_uniform(in));
  b_ = &scope.param("lora_b", {out, lora.rank}, Init::constant(0));
}

Tensor LoraLinear::operator()(const Tensor& x, const DropoutContext& context) const {
  const Tensor y = base_(x);
  if (a_ == nullptr || merged_) return y;
  const Tensor h = linear(drop(x, dropout_, site_, context), a_->use());
  return linear_add_into(h, b_->use(), y, scale_);
}

Tensor LoraLinear::low_rank(const Tensor& x, const DropoutContext& context) const {
  if (a_ == nullptr || merged_) return {};
  return scale(linear(drop(x, dropout_, site_, context), a_->use()), scale_);
}

void LoraLinear::add_to_weight(float factor) {
  const NoGradScope no_grad;
  Param& w = base_.weight();
  // b (out, r) times a (r, in), as b (a^T)^T.
  const Tensor sum = linear_add(b_->use(), transpose(a_->use()), w.use(), factor);
  launch(CopyBytes{w.value.raw(), sum.raw(), sum.nbytes()});
}

void LoraLinear::merge() {
  if (a_ == nullptr || merged_) return;
  add_to_weight(scale_);
  merged_ = true;
}

void LoraLinear::unmerge() {
  if (!merged_) return;
  add_to_weight(-scale_);
  merged_ = false;
}

}  // namespace tpo
