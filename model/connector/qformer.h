#pragma once
// Q-Former: a BERT whose rows are learnable queries, which attend to each other, to a text if there is one, and in
// every other layer to the vision tokens of their medium; then a linear layer to the language model's width. Post-norm:
// x = LayerNorm(x + drop(branch(x))). Queries and text have a feed-forward each; self-attention is common to both. In
// training probabilities of attention are dropped too. Nothing is dropped while all but queries and project_up is
// frozen: the public code puts a frozen Q-Former into evaluation.
// I media, Q queries of a medium, M rows of all texts, N = I*Q + M rows, C width.
// Source: Li et al. 2023, arXiv:2301.12597; queries for videos and drop-path of the public VideoChat2 code.
#include <optional>
#include <vector>

#include "core/ops/attention.h"
#include "model/connector/connector.h"
#include "model/norm.h"

namespace tpo {

struct QFormerConfig {
  int64_t layers = 12, width = 768, heads = 12, mlp_hidden = 3072;
  int64_t cross_every = 2;  // layers 0, cross_every, .. attend to the vision tokens
  int64_t queries = 32;
  int64_t extra_queries = 64;    // those added for videos, which start at zero; 0: none
  int64_t text_vocab = 0;        // of the text that may stand beside the queries; 0: never any, and no weights for it
  int64_t text_positions = 512;  // rows of the position table
  float ln_eps = 1e-12f;
  float dropout = 0.1f;            // of embeddings and of every branch
  float attention_dropout = 0.1f;  // of the probabilities of attention
  float drop_path = 0.2f;          // of the last layer's branches; rises linearly from 0 in the first
  int64_t slots() const { return queries + extra_queries; }
};

// What the layers must know of a pass. Rows: the queries of all media, then the texts of all media.
struct QFormerPass {
  const ConnectorInput* in = nullptr;
  int64_t query_rows = 0;                  // I*Q
  Tensor cu_queries = {}, cu_vision = {};  // (I+1) i32
  // i64, undefined: no dropout.
  Tensor query_paths = {}, text_paths = {};  // (I*Q), (M) the same for all rows of a medium
  Tensor joint_ids = {};                     // (N) row ids in the order in which self-attention has its rows
};

// Multi-head attention with its projections, biases everywhere. Names: <scope>.{q,k,v,o}.
class QFormerAttention {
 public:
  QFormerAttention(const ParamScope& scope, const QFormerConfig& config, int64_t source_width,
                   const TensorParallel& tp);
  // Every row of x (N, C) attends to its medium's rows of x.
  Tensor among(const Tensor& x, const QFormerPass& pass) const;
  // Queries x (I*Q, C) attend to their medium's vision tokens.
  Tensor to_vision(const Tensor& x, const QFormerPass& pass) const;
  bool count(ProductCounter& counter, int64_t rows, int64_t keys, int64_t pairs, bool x_wants, bool source_wants) const;

 private:
  AttentionDropout dropout(const QFormerPass& pass, const Tensor& row_ids) const;

  AttentionSpec spec_;
  float dropout_;
  RngKey site_;
  Linear q_, k_, v_, o_;
};

// fc2(gelu(fc1(x))), whole on every rank. Names: <scope>.fc1, .fc2.
struct QFormerMlp {
  QFormerMlp(const ParamScope& scope, const QFormerConfig& config, const TensorParallel& tp);
  Tensor operator()(const Tensor& x) const { return fc2(fc1(x, Activation::kGelu)); }
  Linear fc1, fc2;
};

// Names: <scope>.attn, .attn_norm, .cross, .cross_norm (where it attends to vision), .query_mlp, .query_norm and, with
// a text vocabulary, .text_mlp, .text_norm.
class QFormerLayer {
 public:
  QFormerLayer(const ParamScope& scope, const QFormerConfig& config, int64_t vision_width, int64_t index,
               const TensorParallel& tp);
  // (N, C) -> (N, C); the last layer, whose texts nothing reads: -> (I*Q, C).
  Tensor operator()(const Tensor& x, const QFormerPass& pass) const;
  bool count(ProductCounter& counter, const PatchGrid& grid, std::span<const int64_t> texts, bool vision_wants,
             bool wants) const;

 private:
  QFormerMlp make_after_cross(const ParamScope& scope, const QFormerConfig& config, int64_t vision_width, int64_t index,
                              const TensorParallel& tp);
  // Dropout, then drop-path, of a branch of queries or texts.
  Tensor drop(const Tensor& branch, const QFormerPass& pass, const char* site, bool text) const;
  Tensor drop_all(const Tensor& branch, const QFormerPass& pass, const char* site) const;

  float dropout_, drop_path_;
  bool last_;
  int64_t queries_;
  RngKey site_;
  QFormerAttention attn_;
  LayerNorm attn_norm_;
  std::optional<QFormerAttention> cross_;
  std::optional<LayerNorm> cross_norm_;
  QFormerMlp query_mlp_;  // after cross_, which its initialiser makes
  LayerNorm query_norm_;
  std::optional<QFormerMlp> text_mlp_;
  std::optional<LayerNorm> text_norm_;
};

// Names: <scope>.queries (queries, C), .extra_queries (extra_queries, C), .embed_norm, .layers.N, .project_up; with a
// text vocabulary .word_embeddings.weight, .position_embeddings.weight, in the group connector.text.
class QFormer final : public Connector {
 public:
  QFormer(const ParamScope& scope, const QFormerConfig& config, int64_t vision_width, int64_t width,
          const TensorParallel& tp);
  Tensor operator()(const ConnectorInput& in) const override;
  int64_t slots(const PatchGrid& grid) const override;  // queries + extra_queries, whatever the grid
  bool count(ProductCounter& counter, const PatchGrid& grid, std::span<const int64_t> texts, bool wants) const override;
  const QFormerConfig& config() const { return config_; }

 private:
  Linear make_after_layers(const ParamScope& scope, const QFormerConfig& config, int64_t vision_width, int64_t width,
                           const TensorParallel& tp);
  QFormerPass pass_of(const ConnectorInput& in) const;
  Tensor embed(const ConnectorInput& in, const QFormerPass& pass) const;
  bool trains() const;  // any parameter but the queries and project_up

  QFormerConfig config_;
  Param *queries_, *extra_queries_ = nullptr, *words_ = nullptr, *positions_ = nullptr;  // null: none
  LayerNorm embed_norm_;
  std::vector<QFormerLayer> layers_;
  Linear project_up_;  // after layers_, which its initialiser makes
  std::vector<const Param*> transformer_;
};

}  // namespace tpo
