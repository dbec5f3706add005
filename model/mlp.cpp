#include "model/mlp.h"

#include "core/ops/pointwise.h"

namespace tpo {

GeluMlp::GeluMlp(const ParamScope& s, int64_t width, int64_t hidden, ProcessGroup& tp)
    : fc1_(s / "fc1", width, hidden, Split::kColumn, tp, Bias::kYes, Init::xavier(width, hidden)),
      fc2_(s / "fc2", hidden, width, Split::kRow, tp, Bias::kYes, Init::xavier(hidden, width)) {}

Tensor GeluMlp::operator()(const Tensor& x_NC) const { return fc2_(fc1_(x_NC, Activation::kGelu)); }

SwigluMlp::SwigluMlp(const ParamScope& s, int64_t width, int64_t hidden, ProcessGroup& tp, const Init& init,
                     const LoraConfig& gate, const LoraConfig& up, const LoraConfig& down)
    : gate_(s / "gate", width, hidden, Split::kColumn, tp, Bias::kNo, init, gate),
      up_(s / "up", width, hidden, Split::kColumn, tp, Bias::kNo, init, up),
      down_(s / "down", hidden, width, Split::kRow, tp, Bias::kNo, init, down) {}

Tensor SwigluMlp::operator()(const Tensor& x_NC, const DropoutContext& dropout) const {
  const Tensor gate_NH = gate_(x_NC, dropout);
  const Tensor up_NH = up_(x_NC, dropout);
  return down_(swiglu(gate_NH, up_NH), dropout);
}

}  // namespace tpo
