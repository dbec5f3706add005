#include "model/block.h"

#include "core/ops/pointwise.h"

namespace tpo {

VisionBlock::VisionBlock(const ParamScope& s, int64_t width, int64_t heads, int64_t mlp_hidden, float ln_eps,
                         ProcessGroup& tp)
    : norm1_(s / "norm1", width, ln_eps),
      norm2_(s / "norm2", width, ln_eps),
      attn_(s / "attn", width, heads, tp),
      mlp_(s / "mlp", width, mlp_hidden, tp) {}

Tensor VisionBlock::operator()(const Tensor& x_NC, const Tensor& cu) const {
  const auto [h_NC, normed_NC] = norm2_.after_sum(x_NC, attn_(norm1_(x_NC), cu));
  return add(h_NC, mlp_(normed_NC));
}

DecoderBlock::DecoderBlock(const ParamScope& s, const DecoderBlockConfig& c, ProcessGroup& tp)
    : attn_norm_(s / "attn_norm", c.attention.width, c.rms_eps),
      mlp_norm_(s / "mlp_norm", c.attention.width, c.rms_eps),
      attn_(s / "attn", c.attention, tp, c.init, c.attention_lora),
      mlp_(s / "mlp", c.attention.width, c.mlp_hidden, tp, c.init, c.gate_lora, c.up_lora, c.down_lora) {}

Tensor DecoderBlock::operator()(const Tensor& x_NC, const SequenceContext& context) const {
  const auto [h_NC, normed_NC] = mlp_norm_.after_sum(x_NC, attn_(attn_norm_(x_NC), context));
  return add(h_NC, mlp_(normed_NC, context.dropout));
}

Tensor DecoderBlock::step(const Tensor& x_nC, const Tensor& positions, KvCache& cache, int layer) const {
  const auto [h_nC, normed_nC] = mlp_norm_.after_sum(x_nC, attn_.step(attn_norm_(x_nC), positions, cache, layer));
  return add(h_nC, mlp_(normed_nC, {}));
}

}  // namespace tpo
