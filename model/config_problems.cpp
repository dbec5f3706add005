#include <algorithm>
#include <cmath>

#include "model/tpo_model.h"

namespace tpo {

namespace {

class Problems {
 public:
  template <class... Parts>
  void unless(bool ok, const Parts&... parts) {
    if (!ok) list_.push_back(cat(parts...));
  }
  // True if every value is at least 1.
  bool positive(std::initializer_list<std::pair<const char*, int64_t>> fields) {
    bool all = true;
    for (const auto& [name, value] : fields) {
      unless(value >= 1, name, " is ", value, "; it must be at least 1");
      all = all && value >= 1;
    }
    return all;
  }
  // Every value is a number above 0.
  void above_zero(std::initializer_list<std::pair<const char*, float>> fields) {
    for (const auto& [name, value] : fields)
      unless(value > 0 && std::isfinite(value), name, " is ", value, "; it must be positive and finite");
  }
  std::vector<std::string> take() { return std::move(list_); }

 private:
  std::vector<std::string> list_;
};

void check_vision(const TpoConfig& c, Problems& p) {
  const VisionConfig& v = c.vision;
  if (!p.positive({{"vision.image_size", v.image_size},
                   {"vision.patch", v.patch},
                   {"vision.frames", v.frames},
                   {"vision.clip_frames", v.clip_frames},
                   {"vision.tubelet", v.tubelet},
                   {"vision.width", v.width},
                   {"vision.heads", v.heads},
                   {"vision.depth", v.depth},
                   {"vision.mlp_hidden", v.mlp_hidden}}))
    return;
  p.above_zero({{"vision.ln_eps", v.ln_eps}, {"vision.outer_ln_eps", v.outer_ln_eps}});
  const bool umt = v.kind == VisionConfig::Kind::kUmt;
  p.unless(!umt || v.image_size % v.patch == 0, "vision.image_size ", v.image_size, " is no multiple of vision.patch ",
           v.patch);
  p.unless(v.image_size >= v.patch, "vision.image_size ", v.image_size, " is below vision.patch ", v.patch);
  p.unless(umt || v.tubelet == 1, "vision.tubelet is ", v.tubelet, "; frames of vision.kind siglip are independent: 1");
  for (const auto& [name, frames] : {std::pair{"frames", v.frames}, {"clip_frames", v.clip_frames}})
    p.unless(frames % v.tubelet == 0, "vision.", name, " ", frames, " is no multiple of vision.tubelet ", v.tubelet);
  p.unless(v.width % v.heads == 0, "vision.width ", v.width, " is no multiple of vision.heads ", v.heads);
  p.unless(!umt || v.width % 2 == 0, "vision.width ", v.width, " must be even for the sinusoid positions");
  if (c.connector.kind == ConnectorConfig::Kind::kLinear && p.positive({{"connector.merge", c.connector.merge}}))
    p.unless(v.image_size / v.patch % c.connector.merge == 0, "connector.merge ", c.connector.merge,
             " does not divide the ", v.image_size / v.patch, " patches of a picture's side");
}

void check_tiling(const TilingConfig& t, Problems& p) {
  constexpr int64_t kMostSide = 64;  // a picture's grid is the best of all its max_side * max_side
  if (p.positive({{"connector.tiling.max_side", t.max_side}, {"connector.tiling.max_tiles", t.max_tiles}}))
    p.unless(t.max_side <= kMostSide, "connector.tiling.max_side is ", t.max_side, "; it must be at most ", kMostSide);
}

void check_qformer(const QFormerConfig& q, Problems& p) {
  for (const auto& [name, share] :
       {std::pair{"dropout", q.dropout}, {"attention_dropout", q.attention_dropout}, {"drop_path", q.drop_path}})
    p.unless(share >= 0 && share < 1, "connector.qformer.", name, " is ", share, "; it must be in [0, 1)");
  p.unless(q.extra_queries >= 0 && q.text_vocab >= 0, "connector.qformer.extra_queries and text_vocab are ",
           q.extra_queries, " and ", q.text_vocab, "; neither may be negative");
  p.above_zero({{"connector.qformer.ln_eps", q.ln_eps}});
  if (!p.positive({{"connector.qformer.layers", q.layers},
                   {"connector.qformer.width", q.width},
                   {"connector.qformer.heads", q.heads},
                   {"connector.qformer.mlp_hidden", q.mlp_hidden},
                   {"connector.qformer.cross_every", q.cross_every},
                   {"connector.qformer.queries", q.queries},
                   {"connector.qformer.text_positions", q.text_positions}}))
    return;
  p.unless(q.width % q.heads == 0, "connector.qformer.width ", q.width, " is no multiple of connector.qformer.heads ",
           q.heads);
}

void check_language(const LanguageConfig& l, Problems& p) {
  const std::vector<std::string> known = LanguageConfig().lora_targets;
  for (const std::string& t : l.lora_targets)
    p.unless(std::find(known.begin(), known.end(), t) != known.end(), "language.lora_targets has '", t,
             "'; known are q, k, v, o, gate, up, down, lm_head");
  p.unless(l.lora_rank >= 0, "language.lora_rank is ", l.lora_rank, "; 0 turns LoRA off, else it must be positive");
  p.unless(l.lora_dropout >= 0 && l.lora_dropout < 1, "language.lora_dropout is ", l.lora_dropout,
           "; it must be in [0, 1)");
  p.above_zero({{"language.rope_theta", l.rope_theta},
                {"language.rms_eps", l.rms_eps},
                {"language.weight_std", l.weight_std},
                {"language.embed_std", l.embed_std}});
  p.unless(l.lora_alpha >= 0 && std::isfinite(l.lora_alpha), "language.lora_alpha is ", l.lora_alpha,
           "; it must be finite and not negative");
  p.unless(l.table_rows >= 0, "language.table_rows is ", l.table_rows, "; 0 means no spare rows");
  p.unless(l.new_tokens == 7, "language.new_tokens is ", l.new_tokens, "; the task vocabulary has 7");
  if (!p.positive({{"language.vocab", l.vocab},
                   {"language.width", l.width},
                   {"language.layers", l.layers},
                   {"language.heads", l.heads},
                   {"language.kv_heads", l.kv_heads},
                   {"language.head_dim", l.head_dim},
                   {"language.mlp_hidden", l.mlp_hidden}}))
    return;
  p.unless(l.heads % l.kv_heads == 0, "language.heads ", l.heads, " is no multiple of language.kv_heads ", l.kv_heads);
  p.unless(l.head_dim % 2 == 0, "language.head_dim ", l.head_dim, " must be even for rotary positions");
}

}  // namespace

std::vector<std::string> config_problems(const TpoConfig& c) {
  Problems p;
  check_vision(c, p);
  if (c.connector.kind == ConnectorConfig::Kind::kQFormer) check_qformer(c.connector.qformer, p);
  const bool mlp = c.connector.kind == ConnectorConfig::Kind::kMlp;
  if (mlp) check_tiling(c.connector.tiling, p);
  p.unless(mlp || !c.connector.tile_pictures, "connector.tiling.on is true; pictures in tiles need connector.kind mlp");
  check_language(c.language, p);
  p.positive({{"region.hidden", c.region.hidden}, {"box_encoder_hidden", c.box_encoder_hidden}});
  p.unless(c.region.l1_weight >= 0 && c.region.giou_weight >= 0, "region.l1_weight and region.giou_weight are ",
           c.region.l1_weight, " and ", c.region.giou_weight, "; neither may be negative");
  p.above_zero({{"task_token_stddev", c.task_token_stddev}});
  return p.take();
}

}  // namespace tpo
