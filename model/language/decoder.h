#pragma once
// One decoder that is Mistral-7B-Instruct-v0.2 and Qwen2-7B-Instruct by configuration (presets.h): untied embeddings,
// pre-norm blocks with grouped-query attention, rotary positions and SwiGLU, a final RMSNorm, a vocabulary projection;
// optional LoRA on any of its linear layers, the projection included.
// N rows of all sequences, C width, V = rows() of both tables, which are cut over the tensor axis as heads and hidden
// widths are. What comes in and goes out is whole on every rank.
#include <algorithm>
#include <string>
#include <vector>

#include "model/block.h"
#include "model/embedding.h"

namespace tpo {

struct LanguageConfig {
  int64_t vocab = 0;       // pieces of the base tokenizer
  int64_t new_tokens = 7;  // rows that follow them, for task triggers and slots
  // Rows of both tables where the public model has more than pieces (Qwen2: 152,064): new tokens take the first spare
  // ones, and lengthen the tables if there are too few. 0: no spare rows.
  int64_t table_rows = 0;
  int64_t width = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, mlp_hidden = 0;
  bool qkv_bias = false;  // biases of q, k and v
  float rope_theta = 1e6f;
  float rms_eps = 1e-5f;
  // Standard deviations of initial weights when nothing is loaded. 0.02 is the public Mistral configuration's, made for
  // widths of thousands; narrow models need about 1 / sqrt(width), or attention stays flat for most of a short run.
  float weight_std = 0.02f;
  float embed_std = 0.02f;
  bool detach_embeddings = false;  // true: embed_tokens gets no gradient and is created frozen
  bool train_new_rows = false;     // false: new and spare rows of both tables stay at the mean of the old ones
  int64_t lora_rank = 0;           // 0: no adapters
  float lora_alpha = 16;
  float lora_dropout = 0;
  std::vector<std::string> lora_targets = {"q", "k", "v", "o", "gate", "up", "down", "lm_head"};
  Recompute recompute = Recompute::kNone;
  bool sequence_parallel = false;  // true: between attention and MLP each rank of the tensor axis has its rows only
  int64_t rows() const { return std::max(vocab + new_tokens, table_rows); }
};

// Names: <scope>.embed_tokens, <scope>.layers.N.{attn_norm, attn.{q,k,v,o}, mlp_norm, mlp.{gate,up,down}},
// <scope>.norm, <scope>.lm_head.
class Decoder {
 public:
  Decoder(const ParamScope& scope, const LanguageConfig& config, const TensorParallel& tp);

  // ids (N) i32 -> (N, C); outside the tape if detach_embeddings.
  Tensor embed(const Tensor& ids) const;
  // Input rows (N, C) -> states after the final norm (N, C).
  Tensor operator()(const Tensor& x_NC, const SequenceContext& context) const;
  // Sum over rows with a label of scale * cross-entropy of the vocabulary projection; label -100 is ignored. -> (1),
  // the same bits on every rank.
  Tensor loss(const Tensor& hidden_NC, const Tensor& targets, float scale, const DropoutContext& dropout) const;
  // (n, C) -> (n, V). For a few rows: logits are materialised.
  Tensor logits(const Tensor& hidden_nC) const;

  // An empty cache for sequences of up to `capacity` rows.
  KvCache make_cache(int64_t capacity) const;
  // The next n rows of a sequence (the prompt, then one row at a time) -> states after the final norm (n, C).
  // Not recorded. Throws ShapeError if the cache would overflow.
  Tensor step(const Tensor& x_nC, KvCache& cache) const;
  // The same for rows whose places and ancestors are given.
  Tensor step(const Tensor& x_nC, const CacheRows& rows, KvCache& cache) const;

  void merge_lora();
  void unmerge_lora();

  const LanguageConfig& config() const { return config_; }
  const TokenEmbedding& embedding() const { return embed_; }
  const std::vector<DecoderBlock>& blocks() const { return blocks_; }
  const RmsNorm& norm() const { return norm_; }
  const LoraLinear& lm_head() const { return lm_head_; }

 private:
  LoraConfig lora_for(const std::string& target) const;
  std::vector<DecoderBlock> make_blocks(const ParamScope& scope) const;

  LanguageConfig config_;
  TensorParallel tp_;
  std::unique_ptr<ProcessGroup> kv_sharers_;  // null if no two ranks share a key-value head
  TokenEmbedding embed_;                      // parts in the order of first use, see TpoModel
  std::vector<DecoderBlock> blocks_;
  RmsNorm norm_;
  LoraLinear lm_head_;
};

}  // namespace tpo
