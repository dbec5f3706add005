#include "model/attention.h"

#include "core/kernels/basic.h"
#include "core/launch.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/ops/rope.h"

namespace tpo {

VisionAttention::VisionAttention(const ParamScope& s, int64_t width, int64_t heads, ProcessGroup& tp)
    : width_(width),
      spec_{.q_heads = heads, .kv_heads = heads, .head_dim = width / heads, .causal = false},
      qkv_(s / "qkv", width, 3 * width, Split::kColumn, tp, Bias::kNo, Init::xavier(width, 3 * width)),
      proj_(s / "proj", width, width, Split::kRow, tp, Bias::kYes, Init::xavier(width, width)),
      q_bias_(&s.param("q_bias", {width}, Init::constant(0))),
      v_bias_(&s.param("v_bias", {width}, Init::constant(0))) {}

Tensor VisionAttention::operator()(const Tensor& x_NC, const Tensor& cu) const {
  const Tensor qkv_N3C = qkv_(x_NC);
  const Shape row{1, width_};
  const Tensor q_bias = q_bias_->use().view(row), v_bias = v_bias_->use().view(row);
  const Tensor bias_3C = concat_rows({q_bias, Tensor::zeros(row), v_bias}).view({3 * width_});
  return proj_(attention_packed(add_bias(qkv_N3C, bias_3C), cu, spec_));
}

CausalAttention::CausalAttention(const ParamScope& s, const CausalAttentionConfig& c, ProcessGroup& tp,
                                 const Init& init, const Lora& lora)
    : spec_{.q_heads = c.heads, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .causal = true},
      theta_(c.rope_theta),
      q_(s / "q", c.width, c.heads * c.head_dim, Split::kColumn, tp, Bias::kNo, init, lora.q),
      k_(s / "k", c.width, c.kv_heads * c.head_dim, Split::kColumn, tp, Bias::kNo, init, lora.k),
      v_(s / "v", c.width, c.kv_heads * c.head_dim, Split::kColumn, tp, Bias::kNo, init, lora.v),
      o_(s / "o", c.heads * c.head_dim, c.width, Split::kRow, tp, Bias::kNo, init, lora.o) {}

Tensor CausalAttention::operator()(const Tensor& x_NC, const SequenceContext& context) const {
  const Tensor q = q_(x_NC, context.dropout), k = k_(x_NC, context.dropout), v = v_(x_NC, context.dropout);
  const AttentionRope turn{context.positions, context.positions, theta_};
  return o_(attention(q, k, v, context.cu, context.cu, spec_, turn), context.dropout);
}

Tensor CausalAttention::step(const Tensor& x_nC, const Tensor& positions, KvCache& cache, int layer) const {
  const int64_t begin = cache.length, end = begin + x_nC.dim(0);
  check_shape(end <= cache.capacity, "[kv_cache] ", end, " rows do not fit a cache of ", cache.capacity);
  const NoGradScope no_grad;
  const Tensor q = q_(x_nC, {});
  const Tensor k = rope(k_(x_nC, {}), positions, spec_.kv_heads, theta_);
  const Tensor v = v_(x_nC, {});
  const Tensor& cache_k = cache.k.at(static_cast<size_t>(layer));
  const Tensor& cache_v = cache.v.at(static_cast<size_t>(layer));
  launch(CopyBytes{cache_k.rows(begin, end).raw(), k.raw(), k.nbytes()});
  launch(CopyBytes{cache_v.rows(begin, end).raw(), v.raw(), v.nbytes()});
  const Tensor y = empty_like(q);
  attention_cached(q, cache_k, cache_v, end, spec_, y, {positions, {}, theta_});
  return o_(y, {});
}

}  // namespace tpo
