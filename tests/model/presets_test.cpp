// Parameter counts of the public model, on meta; presets; configuration errors.
#include "model/presets.h"

#include <algorithm>

#include "model_fixture.h"

namespace tpo::testing {
namespace {

int64_t count(const ParamStore& store, std::string_view pattern) {
  int64_t n = 0;
  for (const auto& p : store.params())
    if (glob_match(pattern, p->name)) n += p->full.numel();
  return n;
}

TEST(Presets, videochat_tpo_7b_has_the_published_parameter_counts) {
  const std::unique_ptr<Stream> stream = Stream::make_meta();
  const StreamScope scope(*stream);
  const Rig rig(preset("videochat_tpo_7b"));
  const ParamStore& s = rig.store;
  EXPECT_EQ(count(s, "vision.*"), 290477056 + 2048);
  EXPECT_EQ(count(s, "vision.norm.*"), 2048);
  EXPECT_EQ(count(s, "heads.region.*"), 8398852);
  EXPECT_EQ(count(s, "box_encoder.*"), 8402944);
  EXPECT_EQ(count(s, "*.lora_?"), 42520688);
  EXPECT_EQ(count(s, "language.*") - count(s, "*.lora_?"), 7241789440);
  EXPECT_EQ(count(s, "task_tokens.*"), 12288);
  EXPECT_EQ(count(s, "connector.*queries"), 73728);
  EXPECT_EQ(count(s, "connector.project_up.*"), 3149824);
  // The checkpoint counts 512 position ids with it.
  EXPECT_EQ(count(s, "connector.*") - 73728 - 3149824, 182121728 - 512);
  // A step of the whole on meta: shapes fit at full size, and its length is predicted.
  const Batch batch = pack(rig.model, {make_sample(rig.model, "s", 100, true, 1, true)});
  EXPECT_NO_THROW(run_loss(rig.model, batch, {1, 1}));
  EXPECT_GT(stream->virtual_seconds(), 1);
}

TEST(Presets, llava_ov_tpo_7b_has_the_published_parameter_counts) {
  const std::unique_ptr<Stream> stream = Stream::make_meta();
  const StreamScope scope(*stream);
  const Rig rig(preset("llava_ov_tpo_7b"));
  const ParamStore& s = rig.store;
  EXPECT_EQ(count(s, "vision.*"), 397747744);
  EXPECT_EQ(count(s, "connector.fc?.*"), 16980992);
  EXPECT_EQ(count(s, "connector.newline"), 3584);
  EXPECT_EQ(count(s, "*.lora_?"), 42860544);
  EXPECT_EQ(count(s, "vision.*") + count(s, "connector.*") + count(s, "language.*") - count(s, "*.lora_?"), 8030348832);
  for (const auto& [name, shape] : {std::pair{"heads.region.fc1.weight", Shape{1792, 3584}},
                                    {"heads.region.fc2.weight", Shape{4, 1792}},
                                    {"box_encoder.fc1.weight", Shape{1792, 4}},
                                    {"box_encoder.fc2.weight", Shape{3584, 1792}}})
    EXPECT_EQ(s.find(name)->full, shape) << name;
  EXPECT_EQ(rig.model.visual_slots_per_media(32), 6273);
  EXPECT_EQ(rig.model.visual_slots_per_media(16), 3137);
  EXPECT_EQ(rig.model.visual_slots_per_media(1), 730);
  const Batch batch = pack(rig.model, {make_sample(rig.model, "s", 100, true, 1, true, 2)});
  EXPECT_NO_THROW(run_loss(rig.model, batch, {1, 1}));
}

TEST(Presets, siglip_has_the_published_parameter_count) {
  const std::unique_ptr<Stream> stream = Stream::make_meta();
  const StreamScope scope(*stream);
  ParamStore s(1);
  const auto tp = make_single();
  const auto vit = make_vision_encoder(ParamScope(s, "vision"), siglip_so400m(), TensorParallel(*tp));
  EXPECT_EQ(count(s, "*"), 397747744);
  EXPECT_EQ(count(s, "*.position_embedding.weight"), 729 * 1152);
  EXPECT_EQ(count(s, "*.post_norm.*"), 2 * 1152) << "which is there and not used";
  EXPECT_EQ((*vit)(Tensor::zeros({2, 3, 384, 384, 3})).shape(), Shape({2 * 3 * 729, 1152}));
}

TEST(Presets, language_models_have_the_published_parameter_counts) {
  const struct {
    const char* name;
    int64_t base, lora, kv_bias;  // of which biases of keys and values
  } cases[] = {{"mistral_7b", 7241789440, 42520688, 0}, {"qwen2_7b", 7615616512, 42860544, 28 * 2 * 512}};
  for (const auto& c : cases) {
    const std::unique_ptr<Stream> stream = Stream::make_meta();
    const StreamScope scope(*stream);
    ParamStore s(1);
    const auto tp = make_single();
    const Decoder decoder(ParamScope(s, "language"), language_preset(c.name), *tp);
    EXPECT_EQ(count(s, "*.lora_?"), c.lora) << c.name;
    EXPECT_EQ(count(s, "*") - count(s, "*.lora_?"), c.base) << c.name;
    EXPECT_EQ(count(s, "*.attn.k.bias") + count(s, "*.attn.v.bias"), c.kv_bias) << c.name;
  }
  EXPECT_THROW(language_preset("qwen"), ConfigError);
}

TEST(Presets, new_tokens_take_spare_rows_or_lengthen_the_tables) {
  for (const auto& [table_rows, rows, frozen] : {std::array<int64_t, 3>{0, 36, 29}, {31, 36, 29}, {50, 50, 29}}) {
    TpoConfig c = tiny_config();
    c.language.table_rows = table_rows;
    const Rig rig(c);
    for (const char* table : {"language.embed_tokens.weight", "language.lm_head.weight"}) {
      const Param& p = *rig.store.find(table);
      EXPECT_EQ(p.full[0], rows) << table << table_rows;
      EXPECT_EQ(p.frozen_rows_begin, frozen) << table << table_rows;
    }
    EXPECT_EQ(rig.model.vocabulary().box_begin(), 29);
  }
}

TEST(Presets, nano_has_the_counts_of_its_specification) {
  const std::unique_ptr<Stream> stream = Stream::make_meta();
  const StreamScope scope(*stream);
  const Rig rig(preset("nano"));
  EXPECT_EQ(count(rig.store, "vision.*"), 619392);
  EXPECT_EQ(count(rig.store, "*.lora_?"), 155704);
  EXPECT_EQ(count(rig.store, "language.*") - count(rig.store, "*.lora_?"), 3348224);
  EXPECT_EQ(count(rig.store, "box_encoder.*"), 33664);
  EXPECT_EQ(count(rig.store, "heads.region.*"), 33412);
  EXPECT_EQ(count(rig.store, "task_tokens.*"), 768);
  EXPECT_EQ(count(rig.store, "connector.project_up.*"), 33024);
  EXPECT_EQ(count(rig.store, "connector.*") - 33024, 1529600);
  EXPECT_EQ(rig.model.visual_slots_per_media(1), 16);
  EXPECT_EQ(rig.model.visual_slots_per_media(4), 16);
}

TEST(Presets, every_preset_is_legal_and_unknown_names_list_them) {
  for (const std::string_view name : preset_names()) EXPECT_TRUE(config_problems(preset(name)).empty()) << name;
  try {
    preset("nanno");
    FAIL() << "no error";
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("nano, small, videochat_tpo_7b"), std::string::npos) << e.what();
  }
}

TEST(Config, numbers_must_be_finite_and_within_their_range) {
  struct Case {
    const char* field;
    float& (*of)(TpoConfig&);
  };
  const auto mentions = [](const TpoConfig& c, const std::string& field) {
    const auto problems = config_problems(c);
    return problems.size() == 1 && problems[0].find(field + " is ") == 0;
  };
  for (const Case& k : {Case{"vision.ln_eps", [](TpoConfig& c) -> float& { return c.vision.ln_eps; }},
                        {"vision.outer_ln_eps", [](TpoConfig& c) -> float& { return c.vision.outer_ln_eps; }},
                        {"connector.qformer.ln_eps", [](TpoConfig& c) -> float& { return c.connector.qformer.ln_eps; }},
                        {"language.rms_eps", [](TpoConfig& c) -> float& { return c.language.rms_eps; }},
                        {"language.rope_theta", [](TpoConfig& c) -> float& { return c.language.rope_theta; }},
                        {"language.lora_alpha", [](TpoConfig& c) -> float& { return c.language.lora_alpha; }},
                        {"language.weight_std", [](TpoConfig& c) -> float& { return c.language.weight_std; }},
                        {"language.embed_std", [](TpoConfig& c) -> float& { return c.language.embed_std; }},
                        {"task_token_stddev", [](TpoConfig& c) -> float& { return c.task_token_stddev; }}})
    for (const float wrong : {-1.0f, INFINITY, NAN}) {
      TpoConfig c = tiny_qformer_config();
      k.of(c) = wrong;
      EXPECT_TRUE(mentions(c, k.field)) << k.field << ' ' << wrong;
    }
  TpoConfig c = tiny_llava_config();
  c.connector.tiling.max_side = 65;
  EXPECT_TRUE(mentions(c, "connector.tiling.max_side"));
}

TEST(Config, all_problems_are_reported_at_once) {
  TpoConfig c = tiny_config();
  c.vision.patch = 3;
  c.language.kv_heads = 3;
  c.language.lora_targets = {"q", "query"};
  c.language.lora_dropout = 1;
  c.region.hidden = 0;
  const auto problems = config_problems(c);
  const auto mentions = [&](const std::string& text) {
    return std::any_of(problems.begin(), problems.end(),
                       [&](const std::string& p) { return p.find(text) != std::string::npos; });
  };
  for (const char* field : {"vision.image_size", "language.heads", "'query'", "language.lora_dropout", "region.hidden"})
    EXPECT_TRUE(mentions(field)) << field;
  EXPECT_GE(problems.size(), 5u);
  EXPECT_THROW(Rig{c}, ConfigError);
}

}  // namespace
}  // namespace tpo::testing
