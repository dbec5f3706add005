#include "model/lora.h"

#include "core/kernels/basic.h"
#include "core/launch.h"
#include "core/ops/dropout.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"

namespace tpo {

LoraLinear::LoraLinear(const ParamScope& scope, int64_t in, int64_t out, Split split, const TensorParallel& tp,
                       Bias bias, const Init& init, const LoraConfig& lora, const Cut& cut)
    : base_(scope, in, out, split, tp, bias, init, cut), dropout_(lora.dropout), site_(hash_name(scope.prefix())) {
  if (lora.rank == 0) return;
  scale_ = lora.alpha / static_cast<float>(lora.rank);
  make_adapter(scope, lora.rank, tp);
}

void LoraLinear::make_adapter(const ParamScope& scope, int64_t rank, const TensorParallel& tp) {
  const Shape a{rank, base_.in()}, b{base_.out(), rank};
  const Init a_init = fan_in_uniform(base_.in()), zero = Init::constant(0);
  const Cut& cut = base_.cut();
  if (cut.ranges.empty()) {
    a_.emplace(scope.param("lora_a", a, a_init), nullptr);
    b_.emplace(scope.param("lora_b", b, zero), nullptr);
  } else if (base_.split() == Split::kColumn) {
    a_.emplace(scope.param("lora_a", a, a_init), tp.group);
    b_.emplace(scope.param("lora_b", b, {base_.local_out(), rank}, cut.rows_of(b), zero), cut.sharers);
  } else {
    a_.emplace(scope.param("lora_a", a, {rank, base_.local_in()}, cut.columns_of(a), a_init), cut.sharers);
    b_.emplace(scope.param("lora_b", b, zero), tp.group);
  }
}

Tensor LoraLinear::hidden(const Tensor& x, const DropoutContext& context) const {
  const bool trains = a_->param().trainable || b_->param().trainable;
  const bool drops = dropout_ != 0 && trains && context.row_ids.defined();
  const Tensor kept =
      drops ? dropout(x, dropout_, context.key.with(site_.value), context.row_ids, base_.first_in()) : x;
  return linear(kept, a_->use());
}

Tensor LoraLinear::operator()(const Tensor& x, const DropoutContext& context) const {
  const Tensor y = base_.product(x);
  if (!a_ || merged_) return base_.finish(y);
  const Tensor h = hidden(x, context);
  return base_.finish(linear_add_into(h, b_->use(), y, scale_));
}

Tensor LoraLinear::low_rank(const Tensor& x, const DropoutContext& context) const {
  if (!a_ || merged_) return {};
  return scale(hidden(x, context), scale_);
}

void LoraLinear::add_to_weight(float factor) {
  const NoGradScope no_grad;
  Param& w = base_.weight();
  // b (out, r) times a (r, in), as b (a^T)^T.
  // In the parts of this rank: a whole and b cut, or the other way round.
  const Tensor sum = linear_add(b_->use(), transpose(a_->use()), w.use(), factor);
  launch(CopyBytes{w.value.raw(), sum.raw(), sum.nbytes()});
}

void LoraLinear::merge() {
  if (!a_ || merged_) return;
  add_to_weight(scale_);
  merged_ = true;
}

void LoraLinear::unmerge() {
  if (!merged_) return;
  add_to_weight(-scale_);
  merged_ = false;
}

}  // namespace tpo
