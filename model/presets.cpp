#include "model/presets.h"

#include <utility>

namespace tpo {

namespace {

// A Q-Former at these widths: as many dropouts as the large one, half its drop-path.
QFormerConfig small_qformer(int64_t layers, int64_t width, int64_t heads, int64_t queries) {
  QFormerConfig q;
  q.layers = layers, q.width = width, q.heads = heads, q.mlp_hidden = 4 * width;
  q.queries = q.extra_queries = queries;
  q.text_vocab = 512, q.text_positions = 64;
  q.drop_path = 0.1f;
  return q;
}

// Two cores train it in minutes. The shape of the large model at a fifteenth of its widths, a table of two frames so
// that clips of four exercise its interpolation.
TpoConfig nano() {
  TpoConfig c;
  c.vision = {.image_size = 64,
              .patch = 8,
              .frames = 2,
              .clip_frames = 4,
              .width = 128,
              .heads = 4,
              .depth = 3,
              .mlp_hidden = 512};
  c.connector.kind = ConnectorConfig::Kind::kQFormer;
  c.connector.qformer = small_qformer(4, 128, 4, 8);  // 16 slots
  LanguageConfig& l = c.language;
  l.vocab = 1024, l.width = 256, l.layers = 4, l.heads = 8, l.kv_heads = 2, l.head_dim = 32, l.mlp_hidden = 704;
  l.weight_std = 1.0f / 16;  // 1 / sqrt(width)
  l.lora_rank = 8, l.lora_alpha = 16, l.lora_dropout = 0.05f;
  c.region.hidden = 128;
  c.box_encoder_hidden = 128;
  return c;
}

TpoConfig small() {
  TpoConfig c = nano();
  c.vision = {.image_size = 96,
              .patch = 16,
              .frames = 4,
              .clip_frames = 4,
              .width = 160,
              .heads = 5,
              .depth = 5,
              .mlp_hidden = 640};
  c.connector.qformer = small_qformer(6, 160, 5, 16);  // 32 slots
  LanguageConfig& l = c.language;
  l.vocab = 2048, l.width = 320, l.layers = 6, l.heads = 10, l.kv_heads = 2, l.head_dim = 32, l.mlp_hidden = 896;
  l.weight_std = 1.0f / 18;  // about 1 / sqrt(width)
  c.region.hidden = 160;
  c.box_encoder_hidden = 160;
  return c;
}

LanguageConfig mistral_7b() {
  LanguageConfig l;
  l.vocab = 32000, l.width = 4096, l.layers = 32, l.heads = 32, l.kv_heads = 8, l.head_dim = 128, l.mlp_hidden = 14336;
  l.detach_embeddings = true;
  l.lora_rank = 16, l.lora_alpha = 32, l.lora_dropout = 0.1f;
  return l;
}

LanguageConfig qwen2_7b() {
  LanguageConfig l = mistral_7b();
  l.vocab = 151646;  // 151,643 pieces and the three marks of its chat template
  l.table_rows = 152064;
  l.width = 3584, l.layers = 28, l.heads = 28, l.kv_heads = 4, l.head_dim = 128, l.mlp_hidden = 18944;
  l.qkv_bias = true;
  l.rms_eps = 1e-6f;
  return l;
}

// UMT-L/16 with its last block left out, and Mistral-7B-Instruct v0.2; the Q-Former of VideoChat2.
TpoConfig videochat_tpo_7b() {
  TpoConfig c;
  c.vision = {.image_size = 224,
              .patch = 16,
              .frames = 4,
              .clip_frames = 16,
              .width = 1024,
              .heads = 16,
              .depth = 23,
              .mlp_hidden = 4096};
  c.connector.kind = ConnectorConfig::Kind::kQFormer;  // 96 slots, of a picture as of 16 frames
  c.connector.qformer.text_vocab = 30523;              // bert-base-uncased and [DEC]
  c.language = mistral_7b();
  c.region.hidden = 2048;
  c.box_encoder_hidden = 2048;
  return c;
}

// LLaVA-OneVision 7B with the heads of TPO.
TpoConfig llava_ov_tpo_7b() {
  TpoConfig c;
  c.vision = siglip_so400m();
  c.connector.kind = ConnectorConfig::Kind::kMlp;
  c.connector.tile_pictures = true;
  c.language = qwen2_7b();
  c.region.hidden = 1792;
  c.box_encoder_hidden = 1792;
  return c;
}

constexpr std::pair<std::string_view, TpoConfig (*)()> kPresets[] = {
    {"nano", nano}, {"small", small}, {"videochat_tpo_7b", videochat_tpo_7b}, {"llava_ov_tpo_7b", llava_ov_tpo_7b}};
constexpr std::pair<std::string_view, LanguageConfig (*)()> kLanguages[] = {{"mistral_7b", mistral_7b},
                                                                            {"qwen2_7b", qwen2_7b}};

template <class Config, size_t n>
Config named(const std::pair<std::string_view, Config (*)()> (&table)[n], std::string_view what,
             std::string_view name) {
  std::string names;
  for (const auto& [known, make] : table) {
    if (known == name) return make();
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  throw ConfigError(cat("no ", what, " preset '", name, "'; there are ", names));
}

}  // namespace

VisionConfig siglip_so400m() {
  return {.kind = VisionConfig::Kind::kSiglip,
          .image_size = 384,
          .patch = 14,
          .frames = 32,  // of no table; in fingerprints of checkpoints
          .clip_frames = 32,
          .width = 1152,
          .heads = 16,
          .depth = 26,
          .mlp_hidden = 4304,
          .ln_eps = 1e-6f};
}

TpoConfig preset(std::string_view name) { return named(kPresets, "model", name); }

LanguageConfig language_preset(std::string_view name) { return named(kLanguages, "language", name); }

std::vector<std::string_view> preset_names() {
  std::vector<std::string_view> names;
  for (const auto& [name, make] : kPresets) names.push_back(name);
  return names;
}

}  // namespace tpo
