// Greedy generation: cache against full forward, dispatch on triggers.
#include "model/generate.h"

#include <algorithm>

#include "core/ops/embedding.h"
#include "core/ops/reduce.h"
#include "model_fixture.h"

namespace tpo::testing {
namespace {

constexpr int32_t kNeverEos = -1;

// A model that writes ids of the given order: row of lm_head of the next one points along the state. Built by hand on a
// decoder whose blocks add nothing, so that the state at a row is the normed input row.
class ScriptedRig : public Rig {
 public:
  // After token a the model writes b, for each (a, b); after a slot it writes `after_slot`.
  ScriptedRig(const std::vector<std::pair<int32_t, int32_t>>& script, int32_t after_slot) : Rig(wide()) {
    for (const auto& p : store.params())
      if (p->name.starts_with("language.layers.") && p->full.rank() == 2)
        std::fill_n(p->value.data<float>(), p->value.numel(), 0.0f);
    Param& embed = *store.find("language.embed_tokens.weight");
    Param& head = *store.find("language.lm_head.weight");
    std::fill_n(embed.value.data<float>(), embed.value.numel(), 0.0f);
    std::fill_n(head.value.data<float>(), head.value.numel(), 0.0f);
    const int64_t C = embed.full[1];
    for (int64_t v = 0; v < embed.full[0]; ++v) embed.value.data<float>()[v * C + v] = 1;
    for (const auto& [from, to] : script) head.value.data<float>()[to * C + from] = 1;
    for (int i = 0; i < kTasks; ++i) {
      Param& token = model.task_tokens()[static_cast<Task>(i)];
      std::fill_n(token.value.data<float>(), C, 0.0f);
      token.value.data<float>()[C - 1 - i] = 1;
      head.value.data<float>()[after_slot * C + C - 1 - i] = 1;
    }
  }

 private:
  static TpoConfig wide() {  // one direction for each token and task
    TpoConfig c = tiny_config();
    c.language.width = 40;
    return c;
  }
};

Batch text_prompt(const TpoModel& model, const std::vector<int32_t>& tokens) {
  Sample s;
  s.tokens = tokens;
  return pack(model, {s});
}

GenerateOptions options(int64_t max_new_tokens, int32_t eos) {
  GenerateOptions o;
  o.max_new_tokens = max_new_tokens;
  o.eos_id = eos;
  return o;
}

// Every token again by a full forward pass without a cache, slots overwritten as in training.
std::vector<int32_t> generate_without_cache(const TpoModel& model, Sample sample, int64_t max_new_tokens) {
  const NoGradScope no_grad;
  const TaskVocabulary v = model.vocabulary();
  const size_t prompt = sample.tokens.size();
  for (int64_t n = 0; n < max_new_tokens; ++n) {
    const Tensor hidden = model.forward(pack(model, {sample}), RngKey());
    const int32_t id =
        *argmax_rows(model.language().logits(hidden.rows(hidden.dim(0) - 1, hidden.dim(0)))).data<int32_t>();
    sample.tokens.push_back(id);
    if (id == v.box_begin()) {
      sample.region_rows.push_back(static_cast<int32_t>(sample.tokens.size()));
      sample.tokens.push_back(v.boxes());
    }
  }
  return {sample.tokens.begin() + static_cast<std::ptrdiff_t>(prompt), sample.tokens.end()};
}

TEST(Generate, cache_gives_the_tokens_and_boxes_of_full_forward_passes) {
  size_t boxes = 0;
  for (const char* seed : {"p", "q", "r"}) {
    Rig rig;
    fill_with_noise(rig.store);
    // Of the added tokens only the region trigger may win, and it wins often.
    Param& head = *rig.store.find("language.lm_head.weight");
    Param& low_rank = *rig.store.find("language.lm_head.lora_b");
    const TaskVocabulary v = rig.model.vocabulary();
    for (int32_t id = v.base; id < v.base + 7; ++id) {
      std::fill_n(head.value.data<float>() + id * 24, 24, 0.0f);
      std::fill_n(low_rank.value.data<float>() + id * 3, 3, id == v.box_begin() ? 0.8f : 0.0f);
    }
    const Sample sample = make_sample(rig.model, seed, 6, true, 0, true);
    const Generation got = generate(rig.model, pack(rig.model, {sample}), options(16, kNeverEos));
    const std::vector<int32_t> expected = generate_without_cache(rig.model, sample, 16);
    EXPECT_EQ(got.tokens, expected);
    EXPECT_FALSE(got.stopped);
    ASSERT_EQ(static_cast<int64_t>(got.boxes.size()), std::count(expected.begin(), expected.end(), v.box_begin()));

    Sample whole = sample;  // teacher-forced boxes of the finished sequence
    whole.tokens.insert(whole.tokens.end(), expected.begin(), expected.end());
    for (const GeneratedBox& box : got.boxes)
      whole.region_rows.push_back(static_cast<int32_t>(sample.tokens.size()) + static_cast<int32_t>(box.token));
    if (got.boxes.empty()) continue;
    boxes += got.boxes.size();
    const Tensor forced = rig.model.predict_boxes(pack(rig.model, {whole}));
    for (size_t i = 0; i < got.boxes.size(); ++i) {
      EXPECT_EQ(got.tokens[static_cast<size_t>(got.boxes[i].token)], v.boxes());
      for (size_t j = 0; j < 4; ++j) {
        EXPECT_NEAR(got.boxes[i].raw[j], forced.data<float>()[4 * i + j], 1e-4);
        EXPECT_EQ(got.boxes[i].box[j], std::clamp(got.boxes[i].raw[j], 0.0f, 1.0f));
      }
    }
  }
  EXPECT_GT(boxes, 0u);
}

TEST(Generate, a_trigger_calls_its_head_once_with_the_state_at_the_slot) {
  // 3 -> 4 -> <box_begin> (slot) -> 5 -> <box_begin> ... by the script until 5 leads to eos.
  const int32_t trigger = 29;
  const ScriptedRig rig({{3, 4}, {4, trigger}, {5, 2}}, 5);
  std::vector<Shape> calls;
  GenerateOptions o = options(20, 2);
  o.region_head = [&](const Tensor& e) {
    calls.push_back(e.shape());
    EXPECT_GT(e.data<float>()[39], 1.0f);  // the direction of the box token, normed
    return rig.model.region_head()(e);
  };
  const Generation g = generate(rig.model, text_prompt(rig.model, {3}), o);
  EXPECT_EQ(g.tokens, (std::vector<int32_t>{4, trigger, rig.model.vocabulary().boxes(), 5, 2}));
  EXPECT_EQ(g.text, (std::vector<int32_t>{4, 5}));
  EXPECT_TRUE(g.stopped);
  EXPECT_EQ(calls, (std::vector<Shape>{{1, 40}}));
  ASSERT_EQ(g.boxes.size(), 1u);
  EXPECT_EQ(g.boxes[0].token, 2);
}

TEST(Generate, each_of_several_triggers_yields_a_box) {
  const int32_t trigger = 29;
  const ScriptedRig rig({{3, trigger}}, trigger);  // trigger, slot, trigger, slot, ...
  int calls = 0;
  GenerateOptions o = options(3, 2);
  o.region_head = [&](const Tensor& e) { return ++calls, rig.model.region_head()(e); };
  const Generation g = generate(rig.model, text_prompt(rig.model, {3}), o);
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(g.boxes.size(), 3u);
  EXPECT_EQ(g.tokens.size(), 6u);
  EXPECT_FALSE(g.stopped);
}

TEST(Generate, no_trigger_calls_no_head) {
  const ScriptedRig rig({{3, 4}, {4, 5}, {5, 2}}, 0);
  GenerateOptions o = options(20, 2);
  o.region_head = [](const Tensor&) -> Tensor { throw std::logic_error("a head was called"); };
  const Generation g = generate(rig.model, text_prompt(rig.model, {3}), o);
  EXPECT_EQ(g.tokens, (std::vector<int32_t>{4, 5, 2}));
  EXPECT_TRUE(g.boxes.empty());
}

TEST(Generate, triggers_of_absent_heads_feed_their_token_and_yield_no_box) {
  const int32_t time_begin = 30;
  const ScriptedRig rig({{3, time_begin}, {6, 2}}, 6);
  const Generation g = generate(rig.model, text_prompt(rig.model, {3}), options(20, 2));
  EXPECT_EQ(g.tokens, (std::vector<int32_t>{time_begin, rig.model.vocabulary().temp(), 6, 2}));
  EXPECT_TRUE(g.boxes.empty());
}

TEST(Generate, a_prompt_of_two_sequences_is_refused) {
  const Rig rig;
  Sample s;
  s.tokens = {1, 2};
  EXPECT_THROW(generate(rig.model, pack(rig.model, {s, s}), options(2, 2)), ShapeError);
}

}  // namespace
}  // namespace tpo::testing
