#include "model/attention.h"

#include "core/kernels/basic.h"
#include "core/launch.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/ops/rope.h"

namespace tpo {

namespace {

Range scaled(const Range& heads, int64_t head_dim) { return {heads.begin * head_dim, heads.end * head_dim}; }

// Columns of the heads of a rank.
Cut head_columns(const ParamScope& s, int64_t heads, int64_t head_dim, const TensorParallel& tp) {
  return {{scaled(balanced_cut(s.prefix(), "heads", heads, *tp.group).ranges[0], head_dim)}, nullptr};
}

// The same columns of q, k and v in a fused weight.
Cut fused_columns(const Cut& heads, int64_t width) {
  Cut fused;
  for (int64_t part = 0; part < 3; ++part)
    fused.ranges.push_back({part * width + heads.ranges[0].begin, part * width + heads.ranges[0].end});
  return fused;
}

Bias qkv_bias(const CausalAttentionConfig& c) { return c.qkv_bias ? Bias::kYes : Bias::kNo; }

std::vector<Linear> qkv_layers(const ParamScope& s, int64_t width, QkvProjection projection, const TensorParallel& tp,
                               const Cut& heads) {
  std::vector<Linear> layers;
  if (projection == QkvProjection::kFused) {
    layers.emplace_back(s / "qkv", width, 3 * width, Split::kColumn, tp, Bias::kNo, Init::xavier(width, 3 * width),
                        fused_columns(heads, width));
  } else {
    for (const char* name : {"q", "k", "v"})
      layers.emplace_back(s / name, width, width, Split::kColumn, tp, Bias::kYes, Init::xavier(width, width), heads);
  }
  return layers;
}

AttentionSpec with_heads(AttentionSpec spec, int64_t q_heads, int64_t kv_heads) {
  spec.q_heads = q_heads, spec.kv_heads = kv_heads;
  return spec;
}

}  // namespace

VisionAttention::VisionAttention(const ParamScope& s, int64_t width, int64_t heads, const TensorParallel& tp,
                                 QkvProjection projection)
    : tp_(tp),
      spec_{.q_heads = heads, .kv_heads = heads, .head_dim = width / heads, .causal = false},
      heads_(head_columns(s, heads, spec_.head_dim, tp)),
      local_(with_heads(spec_, heads_.size() / spec_.head_dim, heads_.size() / spec_.head_dim)),
      in_(qkv_layers(s, width, projection, tp, heads_)),
      proj_(s / "proj", width, width, Split::kRow, tp, Bias::kYes, Init::xavier(width, width), heads_) {
  if (projection == QkvProjection::kFused) q_bias_ = &bias(s, "q_bias"), v_bias_ = &bias(s, "v_bias");
}

Param& VisionAttention::bias(const ParamScope& s, const char* name) const {
  const Shape full{spec_.q_heads * spec_.head_dim};
  const Init zero = Init::constant(0);
  return tp_.size() == 1 ? s.param(name, full, zero) : s.param(name, full, {heads_.size()}, heads_.rows_of(full), zero);
}

Tensor VisionAttention::operator()(const Tensor& x_NC, int64_t rows, const Tensor& cu) const {
  const Tensor whole_NC = tp_.enter(x_NC, rows, in_[0].weight().name);
  if (q_bias_ == nullptr) {
    const Tensor q_NC = in_[0](whole_NC), k_NC = in_[1](whole_NC), v_NC = in_[2](whole_NC);
    return proj_(attention(q_NC, k_NC, v_NC, cu, cu, local_));
  }
  const Tensor qkv_N3C = in_[0](whole_NC);
  const Shape row{1, heads_.size()};
  const Tensor q_bias = q_bias_->use().view(row), v_bias = v_bias_->use().view(row);
  const Tensor bias_3C = concat_rows({q_bias, Tensor::zeros(row, q_bias.dtype()), v_bias}).view({3 * heads_.size()});
  return proj_(attention_packed(add_bias(qkv_N3C, bias_3C), cu, local_));
}

bool VisionAttention::count(ProductCounter& f, int64_t rows, int64_t pairs, Recompute recompute, bool wants) const {
  bool inner = q_bias_ != nullptr && (q_bias_->trainable || v_bias_->trainable);
  for (const Linear& layer : in_) inner = f.linear(layer, rows, wants) || inner;
  return f.attention(pairs, spec_, inner, proj_, rows, recompute);
}

std::unique_ptr<ProcessGroup> split_kv_sharers(int64_t kv_heads, const TensorParallel& tp) {
  if (!shares_kv(kv_heads, tp.size())) return nullptr;
  const int n = tp.size();
  return tp.group->split_by(
      [=](int rank) {
        return std::pair{static_cast<int>(shared_kv_head(kv_heads, rank, n)), rank};
      },
      "kv");
}

CausalAttention::CausalAttention(const ParamScope& s, const CausalAttentionConfig& c, const TensorParallel& tp,
                                 const Init& init, const Lora& lora)
    : CausalAttention(s, c, tp, init, lora, head_part(s.prefix(), c.heads, c.kv_heads, *tp.group)) {}

CausalAttention::CausalAttention(const ParamScope& s, const CausalAttentionConfig& c, const TensorParallel& tp,
                                 const Init& init, const Lora& lora, const HeadPart& part)
    : tp_(tp),
      spec_{.q_heads = c.heads, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .causal = true},
      local_(with_heads(spec_, part.q.size(), part.kv.size())),
      theta_(c.rope_theta),
      q_(s / "q", c.width, c.heads * c.head_dim, Split::kColumn, tp, qkv_bias(c), init, lora.q,
         {{scaled(part.q, c.head_dim)}, nullptr}),
      k_(s / "k", c.width, c.kv_heads * c.head_dim, Split::kColumn, tp, qkv_bias(c), init, lora.k,
         {{scaled(part.kv, c.head_dim)}, c.kv_sharers}),
      v_(s / "v", c.width, c.kv_heads * c.head_dim, Split::kColumn, tp, qkv_bias(c), init, lora.v,
         {{scaled(part.kv, c.head_dim)}, c.kv_sharers}),
      o_(s / "o", c.heads * c.head_dim, c.width, Split::kRow, tp, Bias::kNo, init, lora.o,
         {{scaled(part.q, c.head_dim)}, nullptr}) {
  check<ConfigError>(c.kv_sharers != nullptr || !shares_kv(c.kv_heads, tp.size()), "layer ", s.prefix(), " has ",
                     c.kv_heads, " key-value heads for ", tp.size(), " ranks and no group of those that share one");
}

Tensor CausalAttention::operator()(const Tensor& x_NC, const SequenceContext& context) const {
  const Tensor whole_NC = tp_.enter(x_NC, context.rows(), q_.base().weight().name);
  const Tensor q = q_(whole_NC, context.dropout), k = k_(whole_NC, context.dropout), v = v_(whole_NC, context.dropout);
  const AttentionRope turn{context.positions, context.positions, theta_};
  return o_(attention(q, k, v, context.cu, context.cu, local_, turn), context.dropout);
}

Tensor CausalAttention::step(const Tensor& x_nC, const CacheRows& rows, KvCache& cache, int layer) const {
  const int64_t n = rows.positions.numel(), begin = cache.length, end = begin + n;
  check_shape(end <= cache.capacity, "[kv_cache] ", end, " rows do not fit a cache of ", cache.capacity);
  const NoGradScope no_grad;
  const Tensor whole_nC = tp_.enter(x_nC, n, q_.base().weight().name);
  const Tensor q = q_(whole_nC, {});
  const Tensor k = rope(k_(whole_nC, {}), rows.positions, local_.kv_heads, theta_);
  const Tensor v = v_(whole_nC, {});
  const Tensor& cache_k = cache.k.at(static_cast<size_t>(layer));
  const Tensor& cache_v = cache.v.at(static_cast<size_t>(layer));
  launch(CopyBytes{cache_k.rows(begin, end).raw(), k.raw(), k.nbytes()});
  launch(CopyBytes{cache_v.rows(begin, end).raw(), v.raw(), v.nbytes()});
  const AttentionRope turn{rows.positions, {}, theta_};
  if (rows.mask.defined()) {
    AttentionSpec all = local_;
    all.causal = false;
    const auto whole = [](int64_t N) { return Tensor::from(std::vector<int32_t>{0, static_cast<int32_t>(N)}, {2}); };
    return o_(attention(q, cache_k.rows(0, end), cache_v.rows(0, end), whole(n), whole(end), all, turn, {rows.mask}),
              {});
  }
  const Tensor y = empty_like(q);
  attention_cached(q, cache_k, cache_v, end, local_, y, turn);
  return o_(y, {});
}

}  // namespace tpo
