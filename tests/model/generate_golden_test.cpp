// The same tokens as transformers: golden/generate_golden.py says how they were made.
#include "golden.h"
#include "model/generate.h"

namespace tpo::testing {
namespace {

struct Case {
  const char* name;
  bool qwen2;
  int num_beams = 1;
  float length_penalty = 1;
  EarlyStopping early_stopping = EarlyStopping::kNo;
  float repetition_penalty = 1;
  int64_t no_repeat_ngram = 0, min_new_tokens = 0;
  bool rules_see_prompt = false;
};

// CASES of golden/generate_golden.py.
const Case kCases[] = {
    {.name = "greedy", .qwen2 = false},
    {.name = "greedy_rules", .qwen2 = true, .repetition_penalty = 1.3f, .no_repeat_ngram = 2, .min_new_tokens = 5},
    {.name = "greedy_ids", .qwen2 = false, .repetition_penalty = 1.7f, .no_repeat_ngram = 3, .rules_see_prompt = true},
    {.name = "beam", .qwen2 = true, .num_beams = 4},
    {.name = "beam_early",
     .qwen2 = false,
     .num_beams = 3,
     .length_penalty = 0.4f,
     .early_stopping = EarlyStopping::kYes},
    {.name = "beam_never",
     .qwen2 = true,
     .num_beams = 5,
     .length_penalty = 0.8f,
     .early_stopping = EarlyStopping::kNever,
     .repetition_penalty = 1.2f,
     .no_repeat_ngram = 2,
     .min_new_tokens = 3},
    {.name = "beam_ids",
     .qwen2 = false,
     .num_beams = 2,
     .length_penalty = -1,
     .repetition_penalty = 0.8f,
     .rules_see_prompt = true},
};

TpoConfig config_of(bool qwen2) {
  TpoConfig c = tiny_config();
  LanguageConfig& l = c.language;
  l.vocab = 90, l.width = 32, l.layers = 2, l.heads = 4, l.kv_heads = 2, l.head_dim = 8, l.mlp_hidden = 48;
  l.rope_theta = 1e4f, l.rms_eps = qwen2 ? 1e-6f : 1e-5f, l.qkv_bias = qwen2, l.lora_rank = 0;
  return c;
}

GenerateOptions options_of(const Case& c) {
  GenerateOptions o;
  o.max_new_tokens = 20, o.min_new_tokens = c.min_new_tokens, o.eos_id = 2;
  o.num_beams = c.num_beams, o.length_penalty = c.length_penalty, o.early_stopping = c.early_stopping;
  o.rules.repetition_penalty = c.repetition_penalty, o.rules.no_repeat_ngram = c.no_repeat_ngram;
  o.rules_see_prompt = c.rules_see_prompt;
  return o;
}

// The changes that the script makes to the weights.
void shape_head(ParamStore& store) {
  Param& head = *store.find("language.lm_head.weight");
  float* w = head.value.data<float>();
  const int64_t C = head.full[1];
  std::fill_n(w + 90 * C, 7 * C, 0.0f);
  for (int64_t i = 2 * C; i < 3 * C; ++i) w[i] *= 1.5f;
}

TEST(GenerateGolden, tokens_equal_transformers) {
  const Arrays golden = read_golden("generate.golden");
  for (const Case& c : kCases) {
    const std::string name = c.name;
    Rig rig(config_of(c.qwen2));
    fill_with_noise(rig.store);
    shape_head(rig.store);
    const auto& prompts = golden.at(name + ".prompts");
    ASSERT_EQ(prompts.size(), 50u);
    auto token = golden.at(name + ".tokens").begin();
    int64_t ended = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto p = static_cast<int64_t>(prompts[i]);
      Sample prompt;
      for (const float u : noise(cat("prompt ", p, " of ", name), 1 + 3 * p % 14))
        prompt.tokens.push_back(static_cast<int32_t>((u + 1.0f) * 45.0f));
      const Generation got = generate(rig.model, pack(rig.model, {prompt}), options_of(c));
      const auto n = static_cast<std::ptrdiff_t>(golden.at(name + ".lengths")[i]);
      EXPECT_EQ(got.tokens, std::vector<int32_t>(token, token + n)) << name << ", prompt " << p;
      token += n;
      ended += got.stopped;
      if (c.num_beams > 1) {
        // fp32 sums of some twenty logarithms around 3, each with a few ulp of the logits.
        const float score = golden.at(name + ".scores")[i];
        EXPECT_NEAR(got.score, score, 1e-5 * (1 + std::abs(score))) << name << ", prompt " << p;
      }
    }
    EXPECT_EQ(token, golden.at(name + ".tokens").end());
    EXPECT_GT(ended, 0) << name;
  }
}

}  // namespace
}  // namespace tpo::testing
