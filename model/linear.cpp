#include "model/linear.h"

#include <cmath>
#include <utility>

#include "core/ops/cast.h"

namespace tpo {

namespace {

Cut cut_of(const ParamScope& scope, int64_t in, int64_t out, Split split, const TensorParallel& tp, Cut given) {
  if (split == Split::kNone || tp.size() == 1) return {};
  if (!given.ranges.empty()) return given;
  const bool column = split == Split::kColumn;
  return balanced_cut(scope.prefix(), column ? "outputs" : "inputs", column ? out : in, *tp.group);
}

}  // namespace

Init fan_in_uniform(int64_t in) {
  const float a = 1.0f / std::sqrt(static_cast<float>(in));
  return Init::uniform(-a, a);
}

Linear::Linear(const ParamScope& scope, int64_t in, int64_t out, Split split, const TensorParallel& tp, Bias bias,
               const Init& init, Cut cut)
    : in_(in),
      out_(out),
      split_(split),
      tp_(tp),
      cut_(cut_of(scope, in, out, split, tp, std::move(cut))),
      weight_(make_weight(scope, init), cut_.sharers) {
  if (bias == Bias::kYes) bias_.emplace(make_bias(scope));
}

Param& Linear::make_weight(const ParamScope& scope, const Init& init) const {
  const Shape full{out_, in_};
  if (!cut_over_ranks()) return scope.param("weight", full, init);
  return scope.param("weight", full, {local_out(), local_in()},
                     split_ == Split::kColumn ? cut_.rows_of(full) : cut_.columns_of(full), init);
}

SummedParam Linear::make_bias(const ParamScope& scope) const {
  const Shape full{out_};
  const Init zero = Init::constant(0);
  if (split_ == Split::kColumn && cut_over_ranks())
    return {scope.param("bias", full, {local_out()}, cut_.rows_of(full), zero), cut_.sharers};
  return {scope.param("bias", full, zero), split_ == Split::kRow ? tp_.stream_group() : nullptr};
}

Tensor Linear::product(const Tensor& x, Activation activation) const {
  const Tensor w = weight_.use();
  const bool later = split_ == Split::kRow && cut_over_ranks();
  check_shape(!later || activation == Activation::kNone, "[linear] ", weight().name,
              " is cut by inputs: its result is a share of a sum, to which no activation can be applied");
  return linear(cast(x, w.dtype()), w, bias_ && !later ? bias_->use() : Tensor(), activation);
}

Tensor Linear::finish(const Tensor& y) const {
  if (split_ != Split::kRow || !cut_over_ranks()) return y;
  return tp_.leave(y, bias_ ? bias_->use() : Tensor(), weight().name);
}

Tensor Linear::operator()(const Tensor& x, Activation activation) const { return finish(product(x, activation)); }

}  // namespace tpo
