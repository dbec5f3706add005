#include "launcher/config.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "launcher/build.h"
#include "tests/data/small_tokenizer.h"

namespace tpo {
namespace {

const std::string kGood = R"(
run { folder: "runs/x" seed: 7 }
data { tokenizer: "t.model" sets { path: "a" weight: 2 } }
train { steps: 100 }
)";

std::string error_of(const std::string& text, const std::vector<std::string>& sets = {}) {
  try {
    parse_config(text, "x.textproto", sets);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(config, defaults_are_filled_and_given_values_kept) {
  const auto c = parse_config(kGood, "x", {});
  EXPECT_EQ(c.run().seed(), 7u);
  EXPECT_EQ(c.train().steps(), 100);
  EXPECT_EQ(c.optimizer().lr(), 2e-5);
  EXPECT_TRUE(c.optimizer().has_lr()) << "the resolved text must show it";
  EXPECT_GT(c.model().vision().width(), 0) << "resolved from the preset";
  EXPECT_TRUE(has(resolved_text(c), "warmup_ratio: 0.2"));
  const auto again = parse_config(resolved_text(c), "resolved", {});
  EXPECT_EQ(resolved_text(again), resolved_text(c));
}

TEST(config, a_resolved_text_says_the_same_model_whatever_its_preset) {
  for (const auto& [sets, vision, connector] :
       {std::tuple<std::vector<std::string>, const char*, const char*>{{}, "umt", "qformer"},
        {{"model.connector.merge=2"}, "umt", "linear"},
        {{"model.preset=llava_ov_tpo_7b"}, "siglip", "mlp"},
        {{"model.preset=llava_ov_tpo_7b", "model.vision.kind=umt", "model.vision.patch=16",
          "model.connector.kind=linear"},
         "umt",
         "linear"}}) {
    const auto c = parse_config(kGood, "x", sets);
    EXPECT_EQ(c.model().vision().kind(), vision);
    EXPECT_EQ(c.model().connector().kind(), connector);
    EXPECT_EQ(resolved_text(parse_config(resolved_text(c), "resolved", {})), resolved_text(c));
  }
}

// What a clip has is not what the table of positions has; configurations older than clip_frames say both by `frames`.
TEST(config, frames_of_a_clip_are_those_given_or_those_of_the_table_given_or_the_presets) {
  struct Case {
    std::vector<std::string> sets;
    int table, clip;
  };
  const std::string frames = "model.vision.frames=", clip = "model.vision.clip_frames=", preset = "model.preset=";
  for (const Case& k : {Case{{}, 2, 4},
                        {{preset + "small"}, 4, 4},
                        {{preset + "videochat_tpo_7b"}, 4, 16},
                        {{preset + "llava_ov_tpo_7b"}, 32, 32},
                        {{frames + "3"}, 3, 3},
                        {{clip + "5"}, 2, 5},
                        {{clip + "5", frames + "3"}, 3, 5}}) {
    const auto c = parse_config(kGood, "x", k.sets);
    EXPECT_EQ(c.model().vision().frames(), k.table);
    EXPECT_EQ(c.model().vision().clip_frames(), k.clip);
    EXPECT_EQ(make_model_config(c, 400).vision.frames, k.table);
    EXPECT_EQ(make_collate_options(c).clip_frames, k.clip);
    EXPECT_EQ(resolved_text(parse_config(resolved_text(c), "resolved", {})), resolved_text(c));
  }
  EXPECT_EQ(model_fingerprint(parse_config(kGood, "x", {clip + "5"}), 400),
            model_fingerprint(parse_config(kGood, "x", {}), 400))
      << "the same function of clips";
  EXPECT_FALSE(has(model_fingerprint(parse_config(kGood, "x", {}), 400), "clip_frames")) << "younger than fingerprints";
}

TEST(config, every_error_is_reported_at_once_with_place_and_legal_values) {
  const std::string e = error_of(R"(
run { folder: "runs/x" }
data { tokenizer: "t.model" sets { path: "a" weight: 0 } }
train {
  stepz: 100
  microbatches_per_step: lots
}
optimizer { lr: -1 }
model { preset: "tiny" }
)",
                                 {"train.stepps=3", "checkpoint.keep=many"});
  EXPECT_TRUE(has(e, "7 errors")) << e;
  EXPECT_TRUE(has(e, "x.textproto:5: unknown field stepz in Train; did you mean steps?")) << e;
  EXPECT_TRUE(has(e, "x.textproto:6")) << e;
  EXPECT_TRUE(has(e, "data.sets.0.weight = 0 is out of range; legal: 1 to 10000")) << e;
  EXPECT_TRUE(has(e, "optimizer.lr = -1 is out of range")) << e;
  EXPECT_TRUE(has(e, "model.preset = \"tiny\" is not known; legal: nano, small")) << e;
  EXPECT_TRUE(has(e, "--set train.stepps=3: unknown field stepps in Train; did you mean steps?")) << e;
  EXPECT_TRUE(has(e, "--set checkpoint.keep=many: 'many' is not a whole number")) << e;
}

TEST(config, required_fields_and_empty_mixture_are_named) {
  const std::string e = error_of("train { steps: 5 }");
  EXPECT_TRUE(has(e, "data.tokenizer must be given")) << e;
  EXPECT_TRUE(has(e, "data.sets is empty")) << e;
}

TEST(config, sets_reach_nested_and_repeated_fields) {
  const auto c =
      parse_config(kGood, "x",
                   {"data.sets.0.weight=5", "data.sets.1.path=b", "model.vision.width=64", "model.vision.heads=4",
                    "train.freeze.0=vision.*", "optimizer.lr=1e-3", "data.blind=true"});
  EXPECT_EQ(c.data().sets(0).weight(), 5);
  EXPECT_EQ(c.data().sets(1).path(), "b");
  EXPECT_EQ(c.data().sets(1).weight(), 1);
  EXPECT_EQ(c.model().vision().width(), 64);
  EXPECT_EQ(c.train().freeze(0), "vision.*");
  EXPECT_DOUBLE_EQ(c.optimizer().lr(), 1e-3);
  EXPECT_TRUE(c.data().blind());
}

TEST(config, wrong_sets_say_what_would_be_right) {
  EXPECT_TRUE(has(error_of(kGood, {"train.steps"}), "write path=value"));
  EXPECT_TRUE(has(error_of(kGood, {"train=5"}), "choose one"));
  EXPECT_TRUE(has(error_of(kGood, {"train.steps.x=5"}), "is a value and has no field x"));
  EXPECT_TRUE(has(error_of(kGood, {"data.sets.7.path=b"}), "list of 1"));
  EXPECT_TRUE(has(error_of(kGood, {"data.blind=yes"}), "not true or false"));
  EXPECT_TRUE(has(error_of(kGood, {"train.steps=1e3"}), "not a whole number"));
  EXPECT_TRUE(has(error_of(kGood, {"optimizer.lr=nan"}), "out of range"));
}

TEST(config, sizes_that_do_not_fit_together_or_with_the_preset_are_refused) {
  EXPECT_TRUE(has(error_of(kGood + "model { vision { image_size: 60 } }"), "image_size"))
      << "not a multiple of the preset's patch";
  EXPECT_TRUE(has(error_of(kGood + "model { language { kv_heads: 3 } }"), "kv_heads"));
  const std::string two = error_of(kGood + "model { language { kv_heads: 3 } }", {"train.steps=0"});
  EXPECT_TRUE(has(two, "kv_heads") && has(two, "train.steps = 0")) << two;
}

// What a checkpoint stores has every field, so that one without these was trained before there were any.
TEST(config, a_stored_configuration_without_tiles_and_messages_had_none) {
  config::RunConfig c = parse_config(kGood, "x", {"model.preset=llava_ov_tpo_7b"});
  const auto same = parse_saved_config(resolved_text(c), "x", {});
  EXPECT_EQ(resolved_text(same), resolved_text(c));
  EXPECT_TRUE(same.model().connector().tiling().on());
  EXPECT_EQ(same.data().frame_message(), "temporal_and_half");
  c.mutable_model()->mutable_connector()->clear_tiling();
  c.mutable_data()->clear_frame_message();
  const std::string older = resolved_text(c);
  EXPECT_FALSE(parse_saved_config(older, "x", {}).model().connector().tiling().on());
  EXPECT_EQ(parse_saved_config(older, "x", {}).data().frame_message(), "never");
  const auto asked = parse_saved_config(older, "x", {"model.connector.tiling.on=true", "data.frame_message=always"});
  EXPECT_TRUE(asked.model().connector().tiling().on());
  EXPECT_EQ(asked.data().frame_message(), "always");
}

TEST(config, tiles_belong_to_the_mlp_connector_and_to_the_model) {
  const std::string mlp = "model.connector.kind=mlp", on = "model.connector.tiling.on=true";
  EXPECT_TRUE(has(error_of(kGood, {on}), "connector.tiling.on is true; pictures in tiles need connector.kind mlp"));
  EXPECT_TRUE(has(error_of(kGood, {mlp, "model.connector.tiling.max_side=0"}), "max_side = 0 is out of range"));
  const auto whole = parse_config(kGood, "x", {mlp}), tiled = parse_config(kGood, "x", {mlp, on});
  EXPECT_FALSE(whole.model().connector().tiling().on());
  EXPECT_EQ(tiled.model().connector().tiling().max_side(), 6) << "resolved";
  EXPECT_EQ(model_fingerprint(whole, 400), model_fingerprint(tiled, 400)) << "the same function of views";
  EXPECT_NE(model_fingerprint(parse_config(kGood, "x", {mlp, on, "model.connector.tiling.max_tiles=8"}), 400),
            model_fingerprint(tiled, 400));
  EXPECT_FALSE(has(model_fingerprint(tiled, 400), "tiling")) << "younger than fingerprints";
  EXPECT_EQ(model_fingerprint(parse_config(kGood, "x", {mlp, "model.connector.tiling.max_tiles=8"}), 400),
            model_fingerprint(whole, 400))
      << "not read";
  EXPECT_TRUE(
      make_model_config(parse_config(kGood, "x", {"model.preset=llava_ov_tpo_7b"}), 400).connector.tile_pictures);
  EXPECT_FALSE(parse_config(kGood, "x", {}).model().connector().has_tiling());
}

TEST(config, fields_of_another_kind_of_connector_are_refused_by_name) {
  const std::string linear = "model.connector.kind=linear", qformer = "model.connector.kind=qformer",
                    mlp = "model.connector.kind=mlp", merge = "model.connector.merge=2",
                    layers = "model.connector.qformer.layers=3", side = "model.connector.tiling.max_side=3";
  for (const auto& [kind, field, name] : {std::tuple{qformer, merge, "merge"},
                                          {mlp, merge, "merge"},
                                          {linear, layers, "qformer"},
                                          {mlp, layers, "qformer"},
                                          {linear, side, "tiling"},
                                          {qformer, side, "tiling"},
                                          {merge, layers, "qformer"}})
    EXPECT_TRUE(has(error_of(kGood, {kind, field}), cat("connector.", name, " is given, which only")))
        << kind << ' ' << field;
  for (const auto& sets : std::vector<std::vector<std::string>>{{merge}, {linear, merge}, {layers}, {mlp, side}})
    EXPECT_EQ(error_of(kGood, sets), "") << sets[0];
}

TEST(config, patterns_and_layout_are_checked_with_everything_else) {
  const std::string two = error_of(kGood, {"train.freeze.0=visoin.*", "optimizer.lr_scale.0.pattern=heds.*"});
  EXPECT_TRUE(has(two, "train.freeze: pattern \"visoin.*\" matches no parameter")) << two;
  EXPECT_TRUE(has(two, "optimizer.lr_scale: pattern \"heds.*\" matches no parameter")) << two;
  EXPECT_TRUE(has(error_of(kGood, {"train.freeze.0=*"}), "leaves no parameter to train"));
  EXPECT_NO_THROW(parse_config(kGood, "x", {"layout.data=3"}, 3));
  try {
    parse_config(kGood, "x", {"layout.data=3", "train.freeze.0=visoin.*"}, 2);
    ADD_FAILURE() << "3 ranks wanted, 2 started";
  } catch (const ConfigError& e) {
    EXPECT_TRUE(has(e.what(), "2 errors") && has(e.what(), "data 3") && has(e.what(), "visoin")) << e.what();
  }
}

TEST(config, ways_of_writing_answers_are_checked_and_reach_the_generator) {
  const auto set = [](const std::string& f) { return "eval.generation." + f; };
  const auto c = parse_config(
      kGood, "x",
      {set("mode=beam"), set("num_beams=4"), set("early_stopping=never"), set("length_penalty=-0.5"),
       set("repetition_penalty=1.2"), set("seed=9"), set("no_repeat_ngram=3"), set("state_without_trigger=true")});
  const GenerateOptions o = make_generate_options(c);
  EXPECT_EQ(o.max_new_tokens, 24);
  EXPECT_FALSE(o.sample);
  EXPECT_EQ(o.num_beams, 4);
  EXPECT_EQ(o.early_stopping, EarlyStopping::kNever);
  EXPECT_EQ(o.length_penalty, -0.5f);
  EXPECT_EQ(o.rules.repetition_penalty, 1.2f);
  EXPECT_EQ(o.rules.no_repeat_ngram, 3);
  EXPECT_EQ(o.key.value, RngKey(9).value);
  EXPECT_TRUE(o.state_without_trigger);
  const auto drawn = make_generate_options(parse_config(kGood, "x", {set("mode=sample"), set("top_k=50")}));
  EXPECT_TRUE(drawn.sample);
  EXPECT_EQ(drawn.rules.top_k, 50);
  EXPECT_EQ(drawn.rules.top_p, 0.9f);
  EXPECT_TRUE(has(error_of(kGood, {set("mode=beam")}), "num_beams is 1 with mode beam"));
  EXPECT_TRUE(has(error_of(kGood, {set("num_beams=2")}), "num_beams is 2 with mode greedy"));
  EXPECT_TRUE(has(error_of(kGood, {set("min_new_tokens=25")}), "it must be from 0 to max_new_tokens, 24"));
  EXPECT_TRUE(has(error_of(kGood, {set("mode=best")}), "legal: greedy"));
  EXPECT_TRUE(has(error_of(kGood, {set("temperature=0")}), "temperature = 0 is out of range"));
}

TEST(config, texts_that_end_an_answer_become_ids_as_they_stand_behind_text) {
  const auto tokenizer = testing::small_tokenizer();
  const auto options = [&](const std::string& stop) {
    return make_generate_options(parse_config(kGood, "x", {"eval.generation.stop.0=" + stop}), *tokenizer);
  };
  const GenerateOptions o = options("?");
  EXPECT_EQ(o.eos_id, tokenizer->eos());
  std::vector<int32_t> answer = tokenizer->encode("the red circle?");
  const auto ends = [&](const std::vector<int32_t>& stop) {
    return stop.size() <= answer.size() && std::equal(stop.rbegin(), stop.rend(), answer.rbegin());
  };
  EXPECT_TRUE(std::any_of(o.stop_sequences.begin(), o.stop_sequences.end(), ends));
  answer = tokenizer->encode("the red circle.");
  EXPECT_FALSE(std::any_of(o.stop_sequences.begin(), o.stop_sequences.end(), ends));
  EXPECT_EQ(options("<boxes>").stop_sequences,
            (std::vector<std::vector<int32_t>>{{id_of(TaskToken::kBoxes, *tokenizer)}}));
  EXPECT_THROW(options(""), ConfigError);
}

TEST(config, fields_of_the_language_model_reach_it_and_the_resolved_text) {
  const auto c = parse_config(kGood, "x", {"model.language.qkv_bias=true", "model.language.table_rows=2000"});
  const LanguageConfig l = make_model_config(c, 1024).language;
  EXPECT_TRUE(l.qkv_bias);
  EXPECT_EQ(l.rows(), 2000);
  EXPECT_TRUE(has(resolved_text(c), "table_rows: 2000"));
  EXPECT_NE(model_fingerprint(c, 1024), model_fingerprint(parse_config(kGood, "x", {}), 1024));
}

TEST(config, profiled_steps_must_lie_within_the_run) {
  for (const char* first : {"-1", "0", "97"})
    EXPECT_EQ(error_of(kGood, {"profile.steps=3", std::string("profile.first_step=") + first}), "") << first;
  EXPECT_TRUE(
      has(error_of(kGood, {"profile.steps=3", "profile.first_step=98"}), "legal: profile.first_step from 0 to 97"));
  EXPECT_TRUE(has(error_of(kGood, {"profile.steps=3", "train.steps=4"}), "legal: profile.first_step from 0 to 1"));
  EXPECT_TRUE(has(error_of(kGood, {"profile.steps=101"}), "train.steps = 100; legal: profile.steps up to 100"));
  EXPECT_TRUE(has(error_of(kGood, {"profile.steps=-1"}), "profile.steps = -1 is out of range"));
  for (const char* folder : {"", "..", "a/b"})
    EXPECT_TRUE(has(error_of(kGood, {std::string("profile.folder=") + folder}), "must be a plain name")) << folder;
  for (const char* folder : {"checkpoints", "pictures", "config.textproto", "log.jsonl", "report.html"})
    EXPECT_TRUE(has(error_of(kGood, {std::string("profile.folder=") + folder}), "legal: any other plain name"))
        << folder;
  EXPECT_EQ(error_of(kGood, {"profile.folder=profile2"}), "");
}

TEST(config, a_missing_file_is_named) { EXPECT_THROW(load_config("/nonexistent/x.textproto", {}), ConfigError); }

TEST(config, the_reference_lists_every_field_with_its_range) {
  const std::string r = config_reference();
  EXPECT_TRUE(has(r, "optimizer.warmup_ratio  double  default 0.2  range 0 to 1")) << r;
  EXPECT_TRUE(has(r, "data.sets.N.path  string  must be given"));
}

}  // namespace
}  // namespace tpo
