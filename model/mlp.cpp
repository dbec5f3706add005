#include "model/mlp.h"

#include "core/ops/pointwise.h"

namespace tpo {

GeluMlp::GeluMlp(const ParamScope& s, int64_t width, int64_t hidden, const TensorParallel& tp, Activation gelu)
    : tp_(tp),
      gelu_(gelu),
      fc1_(s / "fc1", width, hidden, Split::kColumn, tp, Bias::kYes, Init::xavier(width, hidden)),
      fc2_(s / "fc2", hidden, width, Split::kRow, tp, Bias::kYes, Init::xavier(hidden, width)) {}

Tensor GeluMlp::operator()(const Tensor& x_NC, int64_t rows) const {
  return fc2_(fc1_(tp_.enter(x_NC, rows, fc1_.weight().name), gelu_));
}

SwigluMlp::SwigluMlp(const ParamScope& s, int64_t width, int64_t hidden, const TensorParallel& tp, const Init& init,
                     const LoraConfig& gate, const LoraConfig& up, const LoraConfig& down)
    : tp_(tp),
      gate_(s / "gate", width, hidden, Split::kColumn, tp, Bias::kNo, init, gate),
      up_(s / "up", width, hidden, Split::kColumn, tp, Bias::kNo, init, up),
      down_(s / "down", hidden, width, Split::kRow, tp, Bias::kNo, init, down) {}

Tensor SwigluMlp::operator()(const Tensor& x_NC, int64_t rows, const DropoutContext& dropout) const {
  const Tensor whole_NC = tp_.enter(x_NC, rows, gate_.base().weight().name);
  const Tensor gate_NH = gate_(whole_NC, dropout);
  const Tensor up_NH = up_(whole_NC, dropout);
  return down_(swiglu(gate_NH, up_NH), dropout);
}

}  // namespace tpo
