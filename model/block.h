#pragma once
// The two transformer blocks and the recompute choice. N rows of all sequences, C width. x is the stream: whole or,
// under sequence parallelism, a shard of rows, on which norms and sums work.
#include "model/attention.h"
#include "model/mlp.h"
#include "model/norm.h"

namespace tpo {

// What is kept of a block for its backward. The gradients have the same bits in all three.
enum class Recompute {
  kNone,  // what every op saves
  // The input and the results of the matrix products but the last: norms, dropout, rotary positions, attention and
  // activation functions are computed again, which costs the forward half of attention and little else.
  kSelective,
  kFull,  // the block's input; the whole block runs again
};

struct VisionBlockStyle {
  QkvProjection projection = QkvProjection::kFused;
  Activation gelu = Activation::kGelu;  // its form
};

// x + attn(norm1(x)), then x + mlp(norm2(x)); LayerNorm and GELU. Names: norm1, attn, norm2, mlp.
class VisionBlock {
 public:
  VisionBlock(const ParamScope& scope, int64_t width, int64_t heads, int64_t mlp_hidden, float ln_eps,
              const TensorParallel& tp, const VisionBlockStyle& style = {});
  // `rows`: N where x is a shard.
  Tensor operator()(const Tensor& x_NC, const Tensor& cu, Recompute recompute, int64_t rows) const;
  Tensor operator()(const Tensor& x_NC, const Tensor& cu, Recompute recompute = Recompute::kNone) const {
    return (*this)(x_NC, cu, recompute, x_NC.dim(0));
  }

  // Counts the products of one run; `pairs` of a row and a row that it sees.
  bool count(ProductCounter& counter, int64_t rows, int64_t pairs, Recompute recompute, bool wants) const;

 private:
  LayerNorm norm1_, norm2_;
  VisionAttention attn_;
  GeluMlp mlp_;
};

struct DecoderBlockConfig {
  CausalAttentionConfig attention;
  int64_t mlp_hidden = 0;
  float rms_eps = 1e-5f;
  CausalAttention::Lora attention_lora;
  LoraConfig gate_lora, up_lora, down_lora;
  Init init;
};

// x + attn(attn_norm(x)), then x + mlp(mlp_norm(x)); RMSNorm and SwiGLU. Names: attn_norm, attn, mlp_norm, mlp.
class DecoderBlock {
 public:
  DecoderBlock(const ParamScope& scope, const DecoderBlockConfig& config, const TensorParallel& tp);
  Tensor operator()(const Tensor& x_NC, const SequenceContext& context, Recompute recompute = Recompute::kNone) const;
  Tensor step(const Tensor& x_nC, const CacheRows& rows, KvCache& cache, int layer) const;

  const RmsNorm& attention_norm() const { return attn_norm_; }
  const RmsNorm& mlp_norm() const { return mlp_norm_; }
  const CausalAttention& attention() const { return attn_; }
  const SwigluMlp& mlp() const { return mlp_; }
  template <class F>
  void for_each_lora(F f) {
    attn_.for_each_lora(f), mlp_.for_each_lora(f);
  }

 private:
  RmsNorm attn_norm_, mlp_norm_;
  CausalAttention attn_;
  SwigluMlp mlp_;
};

}  // namespace tpo
