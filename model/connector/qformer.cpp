#include "model/connector/qformer.h"

#include <algorithm>

#include "core/ops/dropout.h"
#include "core/ops/embedding.h"
#include "core/ops/index.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/profile.h"

namespace tpo {

namespace {

const Init kBert = Init::normal(0, 0.02f);

Linear whole(const ParamScope& s, int64_t in, int64_t out, const TensorParallel& tp) {
  return {s, in, out, Split::kNone, tp, Bias::kYes, kBert};
}

ParamScope text_of(const ParamScope& s) { return s.in_group("connector.text"); }

// 0, each, 2 each, .. media * each
Tensor equal_segments(int64_t media, int64_t each) {
  std::vector<int32_t> ends;
  for (int64_t i = 0; i <= media; ++i) ends.push_back(static_cast<int32_t>(i * each));
  return Tensor::from(ends, {media + 1});
}

// f(0) .. f(n - 1) as i32
template <class F>
Tensor indices(int64_t n, F f) {
  std::vector<int32_t> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) v[static_cast<size_t>(i)] = static_cast<int32_t>(f(i));
  return Tensor::from(v, {n});
}

// The arrays of texts are those of I media with Q queries each: others would let media see each other.
void check_text(const ConnectorText& text, int64_t I, int64_t Q) {
  const int64_t M = text.ids.numel();
  const auto expect = [&](const char* name, const Tensor& array, int64_t rows, DType dtype) {
    check_shape(array.defined() && array.shape() == Shape{rows} && array.dtype() == dtype, "[qformer] connector_text.",
                name, array.defined() ? cat(" ", array.shape()) : " is missing; it", " must be (", rows, ") for ", M,
                " tokens beside ", I, " media of ", Q, " queries");
  };
  for (const auto& [name, array] :
       {std::pair{"ids", &text.ids}, {"positions", &text.positions}, {"medium", &text.medium}})
    expect(name, *array, M, DType::kI32);
  for (const auto& [name, array] : {std::pair{"order", &text.order}, {"back", &text.back}})
    expect(name, *array, I * Q + M, DType::kI32);
  expect("joint_cu", text.joint_cu, I + 1, DType::kI32);
  if (text.row_ids.defined()) expect("row_ids", text.row_ids, M, DType::kI64);
}

}  // namespace

QFormerAttention::QFormerAttention(const ParamScope& s, const QFormerConfig& c, int64_t source_width,
                                   const TensorParallel& tp)
    : spec_{.q_heads = c.heads, .kv_heads = c.heads, .head_dim = c.width / c.heads},
      dropout_(c.attention_dropout),
      site_(RngKey().with(s.prefix())),
      q_(whole(s / "q", c.width, c.width, tp)),
      k_(whole(s / "k", source_width, c.width, tp)),
      v_(whole(s / "v", source_width, c.width, tp)),
      o_(whole(s / "o", c.width, c.width, tp)) {}

AttentionDropout QFormerAttention::dropout(const QFormerPass& pass, const Tensor& row_ids) const {
  return {dropout_, pass.in->key.with(site_.value).with("probabilities"), row_ids};
}

Tensor QFormerAttention::among(const Tensor& x, const QFormerPass& pass) const {
  const ConnectorText& text = pass.in->text;
  const AttentionDropout drop = dropout(pass, pass.joint_ids);
  if (!text.any()) return o_(attention(q_(x), k_(x), v_(x), pass.cu_queries, pass.cu_queries, spec_, {}, {}, drop));
  const auto in_order = [&](const Tensor& rows) { return gather_rows(rows, text.order); };
  const Tensor y =
      attention(in_order(q_(x)), in_order(k_(x)), in_order(v_(x)), text.joint_cu, text.joint_cu, spec_, {}, {}, drop);
  return o_(gather_rows(y, text.back));
}

Tensor QFormerAttention::to_vision(const Tensor& x, const QFormerPass& pass) const {
  const Tensor& source = pass.in->vision;
  return o_(attention(q_(x), k_(source), v_(source), pass.cu_queries, pass.cu_vision, spec_, {}, {},
                      dropout(pass, pass.in->row_ids)));
}

bool QFormerAttention::count(ProductCounter& f, int64_t rows, int64_t keys, int64_t pairs, bool x_wants,
                             bool source_wants) const {
  const bool q = f.linear(q_, rows, x_wants), k = f.linear(k_, keys, source_wants);
  const bool v = f.linear(v_, keys, source_wants);
  return f.linear(o_, rows, f.attention(pairs, spec_, q || k || v));
}

QFormerMlp::QFormerMlp(const ParamScope& s, const QFormerConfig& c, const TensorParallel& tp)
    : fc1(whole(s / "fc1", c.width, c.mlp_hidden, tp)), fc2(whole(s / "fc2", c.mlp_hidden, c.width, tp)) {}

QFormerLayer::QFormerLayer(const ParamScope& s, const QFormerConfig& c, int64_t vision_width, int64_t index,
                           const TensorParallel& tp)
    : dropout_(c.dropout),
      drop_path_(c.layers == 1 ? 0 : c.drop_path * static_cast<float>(index) / static_cast<float>(c.layers - 1)),
      last_(index + 1 == c.layers),
      queries_(c.slots()),
      site_(RngKey().with(s.prefix())),
      attn_(s / "attn", c, c.width, tp),
      attn_norm_(s / "attn_norm", c.width, c.ln_eps),
      query_mlp_(make_after_cross(s, c, vision_width, index, tp)),
      query_norm_(s / "query_norm", c.width, c.ln_eps) {
  if (c.text_vocab == 0) return;
  text_mlp_.emplace(text_of(s) / "text_mlp", c, tp);
  text_norm_.emplace(text_of(s) / "text_norm", c.width, c.ln_eps);
  if (last_) s.store().set_trainable(s.prefix() + ".text_*", false);  // nothing reads what they give
}

// Parameters are created in the order of first use.
QFormerMlp QFormerLayer::make_after_cross(const ParamScope& s, const QFormerConfig& c, int64_t vision_width,
                                          int64_t index, const TensorParallel& tp) {
  if (index % c.cross_every == 0) {
    cross_.emplace(s / "cross", c, vision_width, tp);
    cross_norm_.emplace(s / "cross_norm", c.width, c.ln_eps);
  }
  return {s / "query_mlp", c, tp};
}

Tensor QFormerLayer::drop(const Tensor& branch, const QFormerPass& pass, const char* site, bool text) const {
  if (!pass.in->row_ids.defined()) return branch;
  const Tensor& row_ids = text ? pass.in->text.row_ids : pass.in->row_ids;
  const RngKey key = pass.in->key.with(site_.value).with(site);
  // One key for the paths of queries and text at a common site: a medium's branch goes as a whole.
  return drop_path(dropout(branch, dropout_, text ? key.with("text") : key, row_ids), drop_path_, key.with("path"),
                   text ? pass.text_paths : pass.query_paths);
}

Tensor QFormerLayer::drop_all(const Tensor& branch, const QFormerPass& pass, const char* site) const {
  if (branch.dim(0) == pass.query_rows || !pass.in->row_ids.defined()) return drop(branch, pass, site, false);
  return concat_rows({drop(slice_rows(branch, 0, pass.query_rows), pass, site, false),
                      drop(slice_rows(branch, pass.query_rows, branch.dim(0)), pass, site, true)});
}

Tensor QFormerLayer::operator()(const Tensor& x, const QFormerPass& pass) const {
  const Tensor all = attn_norm_.after_sum(x, drop_all(attn_.among(x, pass), pass, "attn")).normed;
  Tensor queries = pass.in->text.any() ? slice_rows(all, 0, pass.query_rows) : all;
  if (cross_)
    queries = cross_norm_->after_sum(queries, drop(cross_->to_vision(queries, pass), pass, "cross", false)).normed;
  queries = query_norm_.after_sum(queries, drop(query_mlp_(queries), pass, "mlp", false)).normed;
  if (last_ || !pass.in->text.any()) return queries;
  const Tensor text = slice_rows(all, pass.query_rows, all.dim(0));
  return concat_rows({queries, text_norm_->after_sum(text, drop((*text_mlp_)(text), pass, "text_mlp", true)).normed});
}

bool QFormerLayer::count(ProductCounter& f, const PatchGrid& g, std::span<const int64_t> texts, bool vision_wants,
                         bool wants) const {
  const int64_t queries = g.media * queries_;
  int64_t words = 0, pairs = texts.empty() ? queries * queries_ : 0;
  for (const int64_t n : texts) words += n, pairs += (queries_ + n) * (queries_ + n);
  wants = attn_.count(f, queries + words, queries + words, pairs, wants, wants) || wants || attn_norm_.trains();
  const bool text_wants = wants;
  if (cross_)
    wants = cross_->count(f, queries, g.media * g.tokens_per_media(), queries * g.tokens_per_media(), wants,
                          vision_wants) ||
            wants || cross_norm_->trains();
  const bool hidden = f.linear(query_mlp_.fc1, queries, wants);
  wants = f.linear(query_mlp_.fc2, queries, hidden) || wants || query_norm_.trains();
  if (last_ || words == 0) return wants;
  const bool inner = f.linear(text_mlp_->fc1, words, text_wants);
  return f.linear(text_mlp_->fc2, words, inner) || wants || text_norm_->trains();
}

QFormer::QFormer(const ParamScope& s, const QFormerConfig& c, int64_t vision_width, int64_t width,
                 const TensorParallel& tp)
    : config_(c),
      queries_(&s.param("queries", {c.queries, c.width}, kBert)),
      embed_norm_(s / "embed_norm", c.width, c.ln_eps),
      project_up_(make_after_layers(s, c, vision_width, width, tp)) {
  queries_->decay = false;
  for (const auto& p : s.store().params())
    for (const char* part : {".embed_norm.", ".layers.", ".word_embeddings.", ".position_embeddings."})
      if (p->name.starts_with(s.prefix() + part)) transformer_.push_back(p.get());
}

bool QFormer::trains() const {
  return std::any_of(transformer_.begin(), transformer_.end(), [](const Param* p) { return p->trainable; });
}

Linear QFormer::make_after_layers(const ParamScope& s, const QFormerConfig& c, int64_t vision_width, int64_t width,
                                  const TensorParallel& tp) {
  if (c.extra_queries > 0) {
    extra_queries_ = &s.param("extra_queries", {c.extra_queries, c.width}, Init::constant(0));
    extra_queries_->decay = false;
  }
  if (c.text_vocab > 0) {
    words_ = &(text_of(s) / "word_embeddings").param("weight", {c.text_vocab, c.width}, kBert);
    positions_ = &(text_of(s) / "position_embeddings").param("weight", {c.text_positions, c.width}, kBert);
  }
  for (int64_t i = 0; i < c.layers; ++i)
    layers_.emplace_back(s / "layers" / static_cast<int>(i), c, vision_width, i, tp);
  return {s / "project_up", c.width, width, Split::kNone, tp, Bias::kYes, kBert};
}

int64_t QFormer::slots(const PatchGrid&) const { return config_.slots(); }

QFormerPass QFormer::pass_of(const ConnectorInput& in) const {
  const int64_t I = in.grid.media, Q = config_.slots();
  check_shape(!in.text.any() || words_ != nullptr, "[qformer] a text was given, but connector.qformer.text_vocab is 0");
  if (in.text.any()) check_text(in.text, I, Q);
  QFormerPass pass{.in = &in, .query_rows = I * Q};
  pass.cu_queries = equal_segments(I, Q);
  pass.cu_vision = equal_segments(I, in.grid.tokens_per_media());
  if (!in.row_ids.defined()) return pass;
  check_shape(in.row_ids.shape() == Shape{I * Q}, "[qformer] row_ids ", in.row_ids.shape(), " must be (", I * Q, ")");
  pass.joint_ids = in.row_ids;
  pass.query_paths = gather_ids(in.row_ids, indices(I * Q, [Q](int64_t n) { return n - n % Q; }));
  if (!in.text.any()) return pass;
  check_shape(in.text.row_ids.defined(), "[qformer] texts have no row_ids, the queries have some");
  pass.joint_ids = gather_ids(concat_rows({in.row_ids, in.text.row_ids}), in.text.order);
  const Tensor of_media = gather_ids(in.row_ids, indices(I, [Q](int64_t i) { return i * Q; }));
  pass.text_paths = gather_ids(of_media, in.text.medium);
  return pass;
}

Tensor QFormer::embed(const ConnectorInput& in, const QFormerPass& pass) const {
  const int64_t Q = config_.slots();
  const Tensor learnt = queries_->use();
  // Equal for all media until dropout.
  const Tensor normed = embed_norm_(extra_queries_ == nullptr ? learnt : concat_rows({learnt, extra_queries_->use()}));
  const RngKey key = in.key.with("qformer embeddings");
  Tensor queries = gather_rows(normed, indices(pass.query_rows, [Q](int64_t n) { return n % Q; }));
  if (in.row_ids.defined()) queries = dropout(queries, config_.dropout, key, in.row_ids);
  if (!in.text.any()) return queries;
  const Tensor words = embedding(words_->use(), in.text.ids);
  Tensor text = embed_norm_(add(words, embedding(positions_->use(), in.text.positions)));
  if (in.row_ids.defined()) text = dropout(text, config_.dropout, key.with("text"), in.text.row_ids);
  return concat_rows({queries, text});
}

Tensor QFormer::operator()(const ConnectorInput& given) const {
  const ProfileScope region("connector");
  ConnectorInput in = given;
  if (!trains()) in.row_ids = {};
  const QFormerPass pass = pass_of(in);
  Tensor x = embed(in, pass);
  for (const QFormerLayer& layer : layers_) x = layer(x, pass);
  return project_up_(x);
}

bool QFormer::count(ProductCounter& f, const PatchGrid& g, std::span<const int64_t> texts, bool vision_wants) const {
  bool wants = queries_->trainable || (extra_queries_ != nullptr && extra_queries_->trainable) || embed_norm_.trains();
  if (!texts.empty()) wants = wants || words_->trainable || positions_->trainable;
  for (const QFormerLayer& layer : layers_) wants = layer.count(f, g, texts, vision_wants, wants);
  return f.linear(project_up_, g.media * config_.slots(), wants);
}

}  // namespace tpo
