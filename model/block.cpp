#include "model/block.h"

#include "core/ops/pointwise.h"

namespace tpo {

namespace {

// h = x + attention(x), then h + mlp(norm(h)), with what `recompute` says kept. attention and mlp are functions of a
// tensor that end in a matrix product; they are copied, and run again during backward. norm outlives the tape.
template <class Attention, class Norm, class Mlp>
Tensor residual_pair(const Tensor& x, Recompute recompute, Attention attention, const Norm& norm, Mlp mlp) {
  const auto first = [attention](std::span<const Tensor> in) { return attention(in[0]); };
  const auto second = [&norm, mlp](std::span<const Tensor> in) {
    const auto [h, normed] = norm.after_sum(in[0], in[1]);
    return add_into(h, mlp(normed));
  };
  if (recompute == Recompute::kSelective)
    return recompute_block(second, {x, recompute_block(first, {x}, Keep::kProducts)}, Keep::kProducts);
  const auto whole = [first, second](std::span<const Tensor> in) {
    const Tensor both[2] = {in[0], first(in)};
    return second(both);
  };
  return recompute == Recompute::kFull ? recompute_block(whole, {x}) : whole({&x, 1});
}

}  // namespace

VisionBlock::VisionBlock(const ParamScope& s, int64_t width, int64_t heads, int64_t mlp_hidden, float ln_eps,
                         const TensorParallel& tp, const VisionBlockStyle& style)
    : norm1_(s / "norm1", width, ln_eps, tp.stream_group()),
      norm2_(s / "norm2", width, ln_eps, tp.stream_group()),
      attn_(s / "attn", width, heads, tp, style.projection),
      mlp_(s / "mlp", width, mlp_hidden, tp, style.gelu) {}

Tensor VisionBlock::operator()(const Tensor& x_NC, const Tensor& cu, Recompute recompute, int64_t rows) const {
  return residual_pair(
      x_NC, recompute, [this, cu, rows](const Tensor& x) { return attn_(norm1_(x), rows, cu); }, norm2_,
      [this, rows](const Tensor& normed) { return mlp_(normed, rows); });
}

bool VisionBlock::count(ProductCounter& f, int64_t rows, int64_t pairs, Recompute recompute, bool wants) const {
  const bool inner = attn_.count(f, rows, pairs, recompute, wants || norm1_.trains()) || wants;
  const bool hidden = f.linear(mlp_.fc1(), rows, inner || norm2_.trains());
  return f.linear(mlp_.fc2(), rows, hidden) || inner;
}

DecoderBlock::DecoderBlock(const ParamScope& s, const DecoderBlockConfig& c, const TensorParallel& tp)
    : attn_norm_(s / "attn_norm", c.attention.width, c.rms_eps, tp.stream_group()),
      mlp_norm_(s / "mlp_norm", c.attention.width, c.rms_eps, tp.stream_group()),
      attn_(s / "attn", c.attention, tp, c.init, c.attention_lora),
      mlp_(s / "mlp", c.attention.width, c.mlp_hidden, tp, c.init, c.gate_lora, c.up_lora, c.down_lora) {}

Tensor DecoderBlock::operator()(const Tensor& x_NC, const SequenceContext& context, Recompute recompute) const {
  return residual_pair(
      x_NC, recompute, [this, context](const Tensor& x) { return attn_(attn_norm_(x), context); }, mlp_norm_,
      [this, context](const Tensor& normed) { return mlp_(normed, context.rows(), context.dropout); });
}

Tensor DecoderBlock::step(const Tensor& x_nC, const CacheRows& rows, KvCache& cache, int layer) const {
  const auto [h_nC, normed_nC] = mlp_norm_.after_sum(x_nC, attn_.step(attn_norm_(x_nC), rows, cache, layer));
  return add(h_nC, mlp_(normed_nC, rows.positions.numel(), {}));
}

}  // namespace tpo
