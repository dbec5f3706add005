#include "model/language/decoder.h"

#include <algorithm>
#include <numeric>

#include "core/ops/cast.h"
#include "core/ops/loss.h"
#include "core/profile.h"
#include "parallel/tensor/vocab.h"

namespace tpo {

namespace {

AddedRows added_rows(const LanguageConfig& c) { return c.train_new_rows ? AddedRows::kTrained : AddedRows::kFrozen; }

}  // namespace

LoraConfig Decoder::lora_for(const std::string& target) const {
  const auto& t = config_.lora_targets;
  if (std::find(t.begin(), t.end(), target) == t.end()) return {};
  return {config_.lora_rank, config_.lora_alpha, config_.lora_dropout};
}

std::vector<DecoderBlock> Decoder::make_blocks(const ParamScope& s) const {
  const LanguageConfig& c = config_;
  DecoderBlockConfig block;
  block.attention = {c.width, c.heads, c.kv_heads, c.head_dim, c.qkv_bias, c.rope_theta, kv_sharers_.get()};
  block.mlp_hidden = c.mlp_hidden;
  block.rms_eps = c.rms_eps;
  block.attention_lora = {lora_for("q"), lora_for("k"), lora_for("v"), lora_for("o")};
  block.gate_lora = lora_for("gate"), block.up_lora = lora_for("up"), block.down_lora = lora_for("down");
  block.init = Init::normal(0, c.weight_std);
  std::vector<DecoderBlock> blocks;
  blocks.reserve(static_cast<size_t>(c.layers));
  for (int i = 0; i < c.layers; ++i) blocks.emplace_back(s / i, block, tp_);
  return blocks;
}

Decoder::Decoder(const ParamScope& s, const LanguageConfig& c, const TensorParallel& tp)
    : config_(c),
      tp_(*tp.group, c.sequence_parallel),
      kv_sharers_(split_kv_sharers(c.kv_heads, tp)),
      embed_(s / "embed_tokens", c.vocab, c.rows() - c.vocab, c.width, added_rows(c), Init::normal(0, c.embed_std),
             tp_),
      blocks_(make_blocks(s / "layers")),
      norm_(s / "norm", c.width, c.rms_eps, tp_.stream_group()),
      lm_head_(s / "lm_head", c.width, c.rows(), Split::kColumn, tp_, Bias::kNo, Init::normal(0, 0.02f),
               lora_for("lm_head")) {
  if (c.detach_embeddings) embed_.weight().trainable = false;
  init_added_rows(lm_head_.base().weight(), c.vocab, added_rows(c), balanced_part(c.rows(), tp.rank(), tp.size()),
                  *tp.group);
}

Tensor Decoder::embed(const Tensor& ids) const {
  if (!config_.detach_embeddings) return embed_(ids);
  const NoGradScope no_grad;
  return embed_(ids);
}

Tensor Decoder::operator()(const Tensor& x_NC, const SequenceContext& context) const {
  const ProfileScope region("decoder");
  Tensor x = tp_.begin_stream(x_NC, embed_.weight().name);
  for (const DecoderBlock& block : blocks_) x = block(x, context, config_.recompute);
  return tp_.end_stream(norm_(x), context.rows(), norm_.weight().name);
}

Tensor Decoder::loss(const Tensor& hidden_NC, const Tensor& targets, float scale, const DropoutContext& dropout) const {
  const ProfileScope region("language loss");
  const std::string& head = lm_head_.base().weight().name;
  const Tensor h_NC = copy_to(hidden_NC, *tp_.group, head);
  const Tensor xa = lm_head_.low_rank(h_NC, dropout);
  const Tensor w = lm_head_.base().use_weight(), b = xa.defined() ? lm_head_.use_b() : Tensor();
  if (tp_.size() == 1) return vocab_cross_entropy(h_NC, w, targets, scale, xa, b);
  return vocab_cross_entropy_part(h_NC, w, targets, scale, vocab_part(config_.rows(), *tp_.group, head), xa, b);
}

Tensor Decoder::logits(const Tensor& hidden_nC) const {
  const std::string& head = lm_head_.base().weight().name;
  const Tensor part = lm_head_(copy_to(hidden_nC, *tp_.group, head), {});
  return cast(join_columns(part, config_.rows(), *tp_.group, head), DType::kF32);
}

KvCache Decoder::make_cache(int64_t capacity) const {
  KvCache cache;
  cache.capacity = capacity;
  for (const DecoderBlock& block : blocks_) {
    const Shape shape{capacity, block.attention().local_spec().kv_heads * config_.head_dim};
    cache.k.push_back(Tensor::empty(shape, embed_.weight().value.dtype()));
    cache.v.push_back(Tensor::empty(shape, embed_.weight().value.dtype()));
  }
  return cache;
}

Tensor Decoder::step(const Tensor& x_nC, KvCache& cache) const {
  std::vector<int32_t> places(static_cast<size_t>(x_nC.dim(0)));
  std::iota(places.begin(), places.end(), static_cast<int32_t>(cache.length));
  return step(x_nC, {Tensor::from(places, {x_nC.dim(0)}), {}}, cache);
}

Tensor Decoder::step(const Tensor& x_nC, const CacheRows& rows, KvCache& cache) const {
  const NoGradScope no_grad;
  check_shape(rows.positions.numel() == x_nC.dim(0) &&
                  (!rows.mask.defined() || rows.mask.shape() == Shape({1, x_nC.dim(0), cache.length + x_nC.dim(0)})),
              "[decoder] ", x_nC.dim(0), " rows after ", cache.length, " need as many positions, not ",
              rows.positions.numel(), ", and a mask of all of them");
  Tensor x = tp_.begin_stream(x_nC, embed_.weight().name);
  for (size_t i = 0; i < blocks_.size(); ++i) x = blocks_[i].step(x, rows, cache, static_cast<int>(i));
  cache.length += x_nC.dim(0);
  return tp_.end_stream(norm_(x), x_nC.dim(0), norm_.weight().name);
}

void Decoder::merge_lora() {
  for (DecoderBlock& block : blocks_) block.for_each_lora([](LoraLinear& l) { l.merge(); });
  lm_head_.merge();
}

void Decoder::unmerge_lora() {
  for (DecoderBlock& block : blocks_) block.for_each_lora([](LoraLinear& l) { l.unmerge(); });
  lm_head_.unmerge();
}

}  // namespace tpo
