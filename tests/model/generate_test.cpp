// Generation: cache against full forward, dispatch on triggers, beams, drawing, ends.
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

// Of the added tokens only the region trigger may win, and it wins often.
struct TriggerRig : Rig {
  TriggerRig() {
    fill_with_noise(store);
    Param& head = *store.find("language.lm_head.weight");
    Param& low_rank = *store.find("language.lm_head.lora_b");
    const TaskVocabulary v = model.vocabulary();
    for (int32_t id = v.base; id < v.base + 7; ++id) {
      std::fill_n(head.value.data<float>() + id * 24, 24, 0.0f);
      std::fill_n(low_rank.value.data<float>() + id * 3, 3, id == v.box_begin() ? 0.8f : 0.0f);
    }
  }
};

TEST(Generate, cache_gives_the_tokens_and_boxes_of_full_forward_passes) {
  size_t boxes = 0;
  for (const char* seed : {"p", "q", "r"}) {
    const TriggerRig rig;
    const TaskVocabulary v = rig.model.vocabulary();
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

// The answer of beams again by one full forward pass over prompt and answer, slots overwritten as in training: the
// score, and the boxes.
void check_answer(const TpoModel& model, const Sample& prompt, const Generation& got, const GenerateOptions& o) {
  const NoGradScope no_grad;
  const auto begin = static_cast<int64_t>(prompt.tokens.size());
  Sample whole = prompt;
  whole.tokens.insert(whole.tokens.end(), got.tokens.begin(), got.tokens.end());
  std::vector<bool> slot(got.tokens.size());
  for (const GeneratedBox& box : got.boxes) {
    if (o.state_without_trigger) continue;
    slot[static_cast<size_t>(box.token)] = true;
    whole.region_rows.push_back(static_cast<int32_t>(begin + box.token));
  }
  const Batch batch = pack(model, {whole});
  const Tensor logits = model.language().logits(model.forward(batch, RngKey()));
  const int64_t V = logits.dim(1);
  double sum = 0;
  int64_t chosen = 0;
  for (size_t i = 0; i < got.tokens.size(); ++i) {
    if (slot[i]) continue;
    const float* row = logits.data<float>() + (begin + static_cast<int64_t>(i) - 1) * V;
    double total = 0;
    for (int64_t id = 0; id < V; ++id) total += std::exp(static_cast<double>(row[id]));
    sum += row[got.tokens[i]] - std::log(total);
    ++chosen;
  }
  EXPECT_EQ(chosen, o.max_new_tokens);
  EXPECT_NEAR(got.score, sum / std::pow(static_cast<double>(chosen), o.length_penalty), 1e-4);
  for (size_t i = 0; i < got.boxes.size(); ++i) {
    Sample one = whole;
    if (o.state_without_trigger) {  // the task token in place of the trigger
      one.tokens.resize(static_cast<size_t>(begin + got.boxes[i].token));
      one.tokens.push_back(model.vocabulary().boxes());
      one.region_rows = {static_cast<int32_t>(one.tokens.size()) - 1};
    }
    const Tensor forced = model.predict_boxes(pack(model, {one}));
    const float* want = forced.data<float>() + (o.state_without_trigger ? 0 : 4 * i);
    for (size_t j = 0; j < 4; ++j) EXPECT_NEAR(got.boxes[i].raw[j], want[j], 1e-4) << i;
  }
}

TEST(Generate, each_beam_sees_its_own_tokens_and_slots_only) {
  size_t boxes = 0;
  for (const bool without_trigger : {false, true})
    for (const int beams : {2, 3, 5})
      for (const bool sample : {false, true}) {
        const TriggerRig rig;
        const Sample prompt = make_sample(rig.model, cat("b", beams), 6, true, 0, true);
        GenerateOptions o = options(12, kNeverEos);
        o.num_beams = beams, o.length_penalty = 0.7f, o.sample = sample, o.key = RngKey(3);
        o.state_without_trigger = without_trigger;
        const Generation got = generate(rig.model, pack(rig.model, {prompt}), o);
        check_answer(rig.model, prompt, got, o);
        EXPECT_EQ(static_cast<int64_t>(got.boxes.size()),
                  std::count(got.tokens.begin(), got.tokens.end(), rig.model.vocabulary().box_begin()));
        boxes += got.boxes.size();
      }
  EXPECT_GT(boxes, 10u);
}

TEST(Generate, without_the_trigger_the_state_leaves_no_trace) {
  const TriggerRig rig;
  const Sample prompt = make_sample(rig.model, "p", 6, true, 0, true);
  GenerateOptions o = options(16, kNeverEos);
  o.state_without_trigger = true;
  const Generation got = generate(rig.model, pack(rig.model, {prompt}), o);
  Sample again = prompt;  // triggers are tokens like others
  for (int n = 0; n < 16; ++n) {
    const NoGradScope no_grad;
    const Tensor hidden = rig.model.forward(pack(rig.model, {again}), RngKey());
    again.tokens.push_back(
        *argmax_rows(rig.model.language().logits(hidden.rows(hidden.dim(0) - 1, hidden.dim(0)))).data<int32_t>());
  }
  EXPECT_EQ(got.tokens, std::vector<int32_t>(again.tokens.begin() + static_cast<std::ptrdiff_t>(prompt.tokens.size()),
                                             again.tokens.end()));
  ASSERT_FALSE(got.boxes.empty());
  EXPECT_EQ(got.tokens[static_cast<size_t>(got.boxes[0].token)], rig.model.vocabulary().box_begin());
}

TEST(Generate, what_is_drawn_depends_on_the_key_alone) {
  const TriggerRig rig;
  const Batch prompt = pack(rig.model, {make_sample(rig.model, "p", 6, true, 0, true)});
  for (const int beams : {1, 3}) {
    GenerateOptions o = options(16, kNeverEos);
    o.num_beams = beams;
    const auto greedy = generate(rig.model, prompt, o).tokens;
    o.sample = true, o.key = RngKey(1);
    const auto first = generate(rig.model, prompt, o).tokens;
    EXPECT_EQ(generate(rig.model, prompt, o).tokens, first);
    o.key = RngKey(2);
    EXPECT_NE(generate(rig.model, prompt, o).tokens, first);
    o.rules.top_k = 1;  // of beams two are kept
    if (beams == 1) {
      EXPECT_EQ(generate(rig.model, prompt, o).tokens, greedy);
    }
  }
}

TEST(Generate, stop_sequences_end_the_text_and_are_no_part_of_it) {
  const ScriptedRig rig({{3, 4}, {4, 5}, {5, 6}, {6, 7}, {7, 2}}, 0);
  using Ids = std::vector<int32_t>;
  const struct {
    std::vector<Ids> stops;
    Ids tokens, text;
  } cases[] = {
      {{{9, 9}, {5, 6}}, {4, 5, 6}, {4}}, {{{9, 9}, {6}}, {4, 5, 6}, {4, 5}},
      {{{4, 5, 6}}, {4, 5, 6}, {}},       {{{6}, {5, 6}, {9}}, {4, 5, 6}, {4}},  // the longest of those that end there
      {{{7}, {5}}, {4, 5}, {4}},                                                 // the first that is written
      {{}, {4, 5, 6, 7, 2}, {4, 5, 6, 7}}};
  for (const auto& c : cases) {
    for (const int beams : {1, 2, 3}) {
      for (const int64_t limit : {20, 6, 5}) {
        GenerateOptions o = options(limit, 2);
        o.num_beams = beams, o.length_penalty = 1;
        o.stop_sequences = c.stops;
        const Generation g = generate(rig.model, text_prompt(rig.model, {3}), o);
        EXPECT_EQ(g.tokens, c.tokens) << beams << " beams, at most " << limit;
        EXPECT_EQ(g.text, c.text) << beams << " beams, at most " << limit;
        EXPECT_TRUE(g.stopped);
      }
    }
    GenerateOptions o = options(static_cast<int64_t>(c.tokens.size()) - 1, 2);
    o.stop_sequences = c.stops;
    EXPECT_FALSE(generate(rig.model, text_prompt(rig.model, {3}), o).stopped);
  }
}

TEST(Generate, ids_without_a_token_are_never_written) {
  const ScriptedRig rig({{3, 7}, {7, 8}, {8, 2}}, 0);
  for (const int beams : {1, 2}) {
    GenerateOptions o = options(6, 2);
    o.num_beams = beams;
    o.never = {{0, 1}, {7, 8}, {8, 8}};
    const auto tokens = generate(rig.model, text_prompt(rig.model, {3}), o).tokens;
    for (const int32_t id : tokens) EXPECT_TRUE(id != 0 && id != 7) << id;
    EXPECT_FALSE(tokens.empty());
    o.never = {{30, 37}};
    EXPECT_THROW(generate(rig.model, text_prompt(rig.model, {3}), o), ConfigError);  // ids are 0..35
  }
}

TEST(Generate, spare_rows_are_never_written) {
  TpoConfig c = tiny_config();
  c.language.table_rows = 50;
  Rig rig(c);
  fill_with_noise(rig.store);
  float* head = rig.store.find("language.lm_head.weight")->value.data<float>();
  for (int64_t i = 36 * 24; i < 50 * 24; ++i) head[i] *= 100;
  for (const int beams : {1, 2}) {
    GenerateOptions o = options(20, kNeverEos);
    o.num_beams = beams;
    const auto tokens = generate(rig.model, text_prompt(rig.model, {3, 1}), o).tokens;
    EXPECT_LT(*std::max_element(tokens.begin(), tokens.end()), 36);
  }
}

TEST(Generate, illegal_options_are_named_at_once_and_a_nan_is_an_error) {
  Rig rig;
  const Batch prompt = text_prompt(rig.model, {1});
  GenerateOptions o = options(0, 2);
  o.num_beams = 0,
  o.rules = {.repetition_penalty = 0, .no_repeat_ngram = -1, .temperature = 0, .top_k = -1, .top_p = 0};
  o.stop_sequences = {{}};
  EXPECT_EQ(generate_problems(o).size(), 8u);
  try {
    generate(rig.model, prompt, o);
    FAIL() << "no error";
  } catch (const ConfigError& e) {
    for (const char* part : {"max_new_tokens", "num_beams", "repetition_penalty", "temperature", "top_p", "stop"})
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
  EXPECT_THROW(generate(rig.model, prompt, options(1, 36)), ConfigError);  // ids are 0..35
  rig.store.find("language.norm.weight")->value.data<float>()[0] = NAN;
  EXPECT_THROW(generate(rig.model, prompt, options(1, 2)), DataError);
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
