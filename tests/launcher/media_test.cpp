// What a configuration says about media, through data, training, plan and evaluation: pictures in tiles, texts that a
// Q-Former reads beside clips, messages about frame times; and what `data inspect` shows of them.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "checkpoint/manifest.h"
#include "launcher/commands/commands.h"
#include "launcher/evaluator.h"
#include "launcher/exit_codes.h"
#include "launcher/step_plan.h"
#include "launcher/trainer.h"
#include "parallel/comm/threads.h"
#include "tests/data/data_fixture.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

// A configuration of TinyRun whose only dataset is `samples`, with a length index.
config::RunConfig config_of(const std::string& name, const std::vector<testing::Packed>& samples,
                            std::vector<std::string> sets) {
  const std::string folder = TinyRun::get().folder() + "/" + name;
  if (!std::filesystem::exists(folder)) testing::write_dataset(folder, samples);
  for (const char* path : {"data.sets.0.path=", "data.sets.1.path="}) sets.push_back(path + folder);
  sets.insert(sets.end(), {"train.steps=2", "data.max_tokens=512", "train.samples_per_microbatch=3"});
  const auto c = TinyRun::get().config(sets);
  const auto tokenizer = make_tokenizer(c);
  build_length_index(DatasetFolder(folder), *make_templates(c, *tokenizer), 1);
  return c;
}

LocalStep first_step(const config::RunConfig& c, const TrainingData& data) {
  LoaderOptions options;
  options.collate = make_collate_options(c);
  return Loader(*data.mixer, data.loader_sets(), options).next();
}

// Two steps on one rank and on two, whole and cut by ZeRO: losses and gradient norms. The order of additions differs,
// by a few units in the last place of fp32 sums of some thousand values: 2e-4 as in trainer_test.cpp.
void expect_two_ranks_train_as_one(config::RunConfig c) {
  const TrainingData data = make_training_data(c);
  std::vector<double> first;
  for (const auto& [ranks, zero] : {std::pair{1, 0}, {2, 0}, {2, 3}}) {
    c.mutable_layout()->set_zero(zero);
    std::vector<double> seen;
    run_ranks(ranks, [&](ProcessGroup& world) {
      Trainer t(c, data, world);
      for (int s = 0; s < 2; ++s) {
        const StepStats stats = t.step();
        if (world.rank() > 0) continue;
        for (double v : {stats.lm, stats.region, stats.grad_norm}) seen.push_back(v);
        EXPECT_GT(stats.flops, 0);
      }
    });
    if (first.empty()) first = seen;
    ASSERT_EQ(seen.size(), 6u);
    for (size_t i = 0; i < seen.size(); ++i) {
      EXPECT_TRUE(std::isfinite(seen[i]));
      EXPECT_NEAR(first[i], seen[i], 2e-4 * first[i]) << ranks << " ranks, zero " << zero;
    }
  }
}

// The plan of the microbatches that come is the real step, byte by byte, in both precisions.
void expect_plan_is_real(config::RunConfig c) {
  const TrainingData data = make_training_data(c);
  const LocalStep local = first_step(c, data);
  std::vector<MicrobatchSize> sizes;
  for (size_t i = 0; i < local.batches.size(); ++i)
    sizes.push_back(size_of(local.batches[i], local.plan.microbatches[i].counts));
  for (const char* precision : {"fp32", "bf16"}) {
    SCOPED_TRACE(precision);
    c.mutable_run()->set_precision(precision);
    const auto world = make_single();
    Trainer trainer(c, data, *world);
    EXPECT_TRUE(std::isfinite(trainer.step(local).grad_norm));
    const StepNeeds plan = plan_step(c, data.vocab, sizes);
    const MemoryUse real = trainer.stream().allocator()->memory();
    EXPECT_EQ(plan.memory.live, real.live);
    EXPECT_EQ(plan.memory.peak, real.peak);
    EXPECT_EQ(plan.allocator.allocations, trainer.stream().allocator()->stats().allocations);
  }
}

int64_t slots_of(const MicrobatchSize& size, const PictureTiling& tiling) {
  return std::accumulate(size.pictures.begin(), size.pictures.end(), int64_t{0},
                         [&](int64_t sum, const PictureSize& p) { return sum + tiling.layout(p).slots(); });
}

std::vector<testing::Packed> pictures_of_all_shapes() {
  const PictureSize sizes[] = {{40, 30}, {96, 32}, {20, 64}, {16, 16}, {33, 70}, {100, 20}, {64, 64}, {5, 9}};
  std::vector<testing::Packed> samples;
  for (const PictureSize& s : sizes)
    samples.push_back(testing::region_sample(cat("s", samples.size()), samples.size(), static_cast<int>(s.width),
                                             static_cast<int>(s.height)));
  samples.push_back(testing::text_sample("text", "How many?", "3"));
  return samples;
}

// As LLaVA-OneVision, small: 4 x 4 patches a tile of 16 pixels, up to 3 x 3 tiles, resampled above 4.
const std::vector<std::string> kTiled = {"model.vision.kind=siglip",          "model.vision.frames=1",
                                         "model.vision.image_size=16",        "model.vision.patch=4",
                                         "model.connector.kind=mlp",          "model.connector.tiling.on=true",
                                         "model.connector.tiling.max_side=3", "model.connector.tiling.max_tiles=4"};

std::vector<std::string> with(std::vector<std::string> sets, std::initializer_list<std::string> more) {
  sets.insert(sets.end(), more.begin(), more.end());
  return sets;
}

TEST(tiled_pictures, train_and_are_answered_about_whatever_their_shape) {
  const auto c = config_of("shapes", pictures_of_all_shapes(), kTiled);
  expect_two_ranks_train_as_one(c);
  expect_plan_is_real(c);

  const TrainingData data = make_training_data(c);
  const auto world = make_single();
  Trainer trainer(c, data, *world);
  EvalOptions options;
  options.generate = make_generate_options(c);
  const EvalResult r =
      evaluate(trainer.model(), *data.folders[0], *data.templates, make_collate_options(c), options, *world);
  EXPECT_EQ(r.boxes, 8);
  EXPECT_EQ(r.answers, 1);
  EXPECT_EQ(r.too_long, 0);
}

// Teacher-forced boxes of a sample do not depend on the pictures beside it in the microbatch. Sums run in another order
// where GEMM has more rows: some units in the last place of fp32 in a few layers, far below 1e-4 of a box.
TEST(tiled_pictures, a_sample_sees_its_own_tiles_in_any_company) {
  const auto c = config_of("shapes", pictures_of_all_shapes(), kTiled);
  const TrainingData data = make_training_data(c);
  const auto world = make_single();
  const Trainer trainer(c, data, *world);
  const CollateOptions options = make_collate_options(c);
  std::vector<CollateItem> all, alone;
  for (int64_t i : {1, 4, 6}) {
    for (auto* list : {&all, &alone}) {
      RawSample raw = data.folders[0]->read(i);
      TokenizedSample text = data.templates->encode(raw.sample);
      list->push_back({std::move(raw), std::move(text), i});
    }
  }
  const std::vector<float> together =
      trainer.model().predict_boxes(upload(collate(all, 0, options))).to_vector<float>();
  for (size_t i = 0; i < alone.size(); ++i) {
    const auto one = trainer.model().predict_boxes(upload(collate({&alone[i], 1}, 0, options))).to_vector<float>();
    for (size_t k = 0; k < 4; ++k) EXPECT_NEAR(one[k], together[4 * i + k], 1e-4) << i;
  }
}

TEST(tiled_pictures, shapes_of_data_and_of_limits_bound_what_comes) {
  const auto c = config_of("shapes", pictures_of_all_shapes(), kTiled);
  const TrainingData data = make_training_data(c);
  const PictureTiling tiling = *data.templates->options().tiling;
  const StepShape shape = shape_of_data(c, data);
  ASSERT_EQ(shape.kinds.size(), 2u);
  EXPECT_EQ(shape.kinds[0].share, 0.5);
  const MicrobatchSize& bound = shape.kinds[0].size;
  const int64_t bytes = plan_step(c, data.vocab, {&bound, 1}).memory.at_peak().bytes;
  for (int64_t step = 0; step < 12; ++step) {
    for (const MicrobatchPlan& m : data.mixer->plan(step).microbatches) {
      EXPECT_LE(m.counts.views, bound.media);
      EXPECT_LE(m.counts.media, static_cast<int64_t>(bound.pictures.size()));
      int64_t slots = 0;
      for (int64_t s = m.first_slot; s < m.first_slot + m.slots; ++s) {
        const auto sample = static_cast<size_t>(data.mixer->plan(step).slots[static_cast<size_t>(s)].sample);
        slots += data.mixer->datasets()[0].lengths[sample].visual_slots;
      }
      EXPECT_LE(slots, slots_of(bound, tiling));
    }
  }
  const LocalStep local = first_step(c, data);
  for (size_t i = 0; i < local.batches.size(); ++i) {
    const MicrobatchSize real = size_of(local.batches[i], local.plan.microbatches[i].counts);
    EXPECT_LE(plan_step(c, data.vocab, {&real, 1}).memory.at_peak().bytes, bytes);
  }
  const MicrobatchSize limit = shape_of_limits(c, 1).kinds[0].size;
  ASSERT_EQ(limit.pictures.size(), 3u);
  EXPECT_EQ(limit.media, 3 * 10) << "the largest grid, 3 x 3, fits";
  EXPECT_EQ(shape_of_limits(c, 8).kinds[0].size.media, 3 * 8 * 3) << "of 64 slots each: 2 tiles fill 56";
  EXPECT_THROW(shape_of_limits(c, 40), ConfigError);
}

TEST(tiled_pictures, limits_of_a_model_that_takes_clips_too_are_two_kinds) {
  const auto c = TinyRun::get().config(with(kTiled, {"model.vision.frames=3", "train.samples_per_microbatch=3"}));
  const StepShape both = shape_of_limits(c, 2);
  ASSERT_EQ(both.kinds.size(), 2u);
  EXPECT_EQ(both.kinds[0].size.pictures.size(), 6u);
  EXPECT_EQ(both.kinds[0].size.frames, 1);
  EXPECT_EQ(both.kinds[1].size.pictures.size(), 0u);
  EXPECT_EQ(both.kinds[1].size.frames, 3);
  EXPECT_EQ(both.kinds[1].size.media, 6);
  EXPECT_EQ(both.kinds[0].share + both.kinds[1].share, 1);
  for (const auto& kind : both.kinds) EXPECT_GT(plan_step(c, 400, {&kind.size, 1}).memory.at_peak().bytes, 0);
  EXPECT_HAS(both.source, " or 2 clip(s) of 3 frames");
  EXPECT_EQ(shape_of_limits(c, 0).kinds.size(), 1u);
}

std::vector<testing::Packed> clips() {
  std::vector<testing::Packed> samples;
  for (int i = 0; i < 6; ++i) samples.push_back(testing::clip_sample(cat("clip", i), 3 + 7 * i));
  samples.push_back(testing::text_sample("text", "How many?", "3"));
  return samples;
}

const std::vector<std::string> kQFormer = {"model.vision.frames=3",
                                           "model.connector.kind=qformer",
                                           "model.connector.qformer.layers=3",
                                           "model.connector.qformer.width=24",
                                           "model.connector.qformer.heads=2",
                                           "model.connector.qformer.mlp_hidden=32",
                                           "model.connector.qformer.queries=3",
                                           "model.connector.qformer.extra_queries=2"};

std::string bert_words() {
  const std::string path = TinyRun::get().folder() + "/vocab.txt";
  write_text(path, "[UNK]\n[CLS]\n[SEP]\nclip\nnumber\n0\n1\n2\n3\n.\n,\nframes\nseconds\nwhere\n?\n");
  return path;
}

template <class E, class F>
std::string message_of(const F& body) {
  try {
    body();
  } catch (const E& e) {
    return e.what();
  }
  return "no error";
}

TEST(texts_beside_clips, train_plan_and_answer_like_everything_else) {
  for (const std::string what : {"frame_times", "instruction"}) {
    SCOPED_TRACE(what);
    const auto c = config_of(
        "clips", clips(),
        with(kQFormer, {"model.connector.qformer.text_vocab=15", "data.connector_text=" + what,
                        "model.connector.qformer.text_positions=40", "data.connector_tokenizer=" + bert_words()}));
    expect_two_ranks_train_as_one(c);
    expect_plan_is_real(c);

    const TrainingData data = make_training_data(c);
    const auto world = make_single();
    Trainer trainer(c, data, *world);
    const auto text_values = [&] {
      std::vector<float> values;
      for (const auto& p : trainer.store().params())
        if (trainer.store().group_names()[static_cast<size_t>(p->group)] == "connector.text" && p->trainable)
          for (float v : p->value.to_vector<float>()) values.push_back(v);
      return values;
    };
    const std::vector<float> before = text_values();
    trainer.step();
    EXPECT_NE(text_values(), before) << "the texts' own weights are in the step";
    EvalOptions options;
    options.generate = make_generate_options(c);
    const EvalResult r =
        evaluate(trainer.model(), *data.folders[0], *data.templates, make_collate_options(c), options, *world);
    EXPECT_EQ(r.answers, 7);

    // The text reaches the slots.
    const RawSample raw = data.folders[0]->read(1);
    TokenizedSample prompt = data.templates->encode_prompt(raw.sample, 0);
    const auto states = [&] {
      return trainer.model().forward(make_prompt(raw, prompt, make_collate_options(c)), RngKey()).to_vector<float>();
    };
    const std::vector<float> told = states();
    prompt.connector_texts[0][1] = prompt.connector_texts[0][1] == 5 ? 6 : 5;
    EXPECT_NE(states(), told);

    const StepShape shape = shape_of_data(c, data);
    const MicrobatchSize& bound = shape.kinds[0].size;
    EXPECT_EQ(static_cast<int64_t>(bound.connector_texts.size()), bound.media);
    const int64_t bytes = plan_step(c, data.vocab, {&bound, 1}).memory.at_peak().bytes;
    const LocalStep local = first_step(c, data);
    for (size_t i = 0; i < local.batches.size(); ++i) {
      const MicrobatchSize real = size_of(local.batches[i], local.plan.microbatches[i].counts);
      EXPECT_LE(plan_step(c, data.vocab, {&real, 1}).memory.at_peak().bytes, bytes);
    }
    EXPECT_EQ(shape_of_limits(c, 1).kinds[0].size.connector_texts, (std::vector<int64_t>{40, 40, 40}));
  }
}

TEST(texts_beside_clips, a_checkpoint_names_their_tokenizer) {
  auto c = config_of(
      "clips", clips(),
      with(kQFormer, {"model.connector.qformer.text_vocab=15", "data.connector_text=frame_times",
                      "model.connector.qformer.text_positions=40", "data.connector_tokenizer=" + bert_words()}));
  const TrainingData data = make_training_data(c);
  const auto world = make_single();
  const std::string saved = read_checkpoint_manifest(Trainer(c, data, *world).save()).config();
  config::RunConfig now = read_saved(saved);
  EXPECT_EQ(now.data().connector_tokenizer_fingerprint(), data.templates->connector_tokenizer()->fingerprint());
  EXPECT_NO_THROW(check_tokenizer(saved, "it", now));
  EXPECT_NO_THROW(make_templates(now, *data.tokenizer));
  now.mutable_data()->set_connector_tokenizer_fingerprint(7);
  EXPECT_HAS(message_of<OtherTokenizer>([&] { check_tokenizer(saved, "it", now); }),
             "but data.connector_tokenizer is " + bert_words() + " (fingerprint 7)");
  EXPECT_HAS(message_of<DataError>([&] { make_templates(now, *data.tokenizer); }), "encodes differently");
  now.mutable_checkpoint()->set_allow_other_tokenizer(true);
  EXPECT_NO_THROW(check_tokenizer(saved, "it", now));
  EXPECT_NO_THROW(make_templates(now, *data.tokenizer));
}

// Patterns that name everything do not reach weights for texts that nothing reads: those of the last layer, and all of
// them where no texts come. Weights that train and are in the step but never reached would stop it.
TEST(texts_beside_clips, what_nothing_reads_does_not_train) {
  for (const bool texts : {false, true}) {
    auto sets =
        with(kQFormer, {"model.connector.qformer.text_vocab=15", "train.train.0=*", "train.train.1=connector.*"});
    if (texts)
      sets = with(sets, {"data.connector_text=frame_times", "model.connector.qformer.text_positions=40",
                         "data.connector_tokenizer=" + bert_words()});
    const auto c = config_of("clips", clips(), sets);
    const TrainingData data = make_training_data(c);
    const auto world = make_single();
    Trainer trainer(c, data, *world);
    trainer.step();
    for (const char* name : {"connector.word_embeddings.weight", "connector.position_embeddings.weight",
                             "connector.layers.1.text_mlp.fc1.weight", "connector.layers.0.text_norm.bias"})
      EXPECT_EQ(trainer.store().find(name)->trainable, texts) << name;
    for (const char* name : {"connector.layers.2.text_mlp.fc2.weight", "connector.layers.2.text_norm.weight"})
      EXPECT_FALSE(trainer.store().find(name)->trainable) << name;
    EXPECT_TRUE(trainer.store().find("connector.layers.2.query_mlp.fc1.weight")->trainable);
  }
}

// Slots do not tell them apart where a Q-Former gives both the same number.
TEST(clips, are_never_in_a_microbatch_with_pictures) {
  std::vector<testing::Packed> samples = pictures_of_all_shapes();
  for (int i = 0; i < 6; ++i) samples.push_back(testing::clip_sample(cat("clip", i), 3 + i));
  for (const auto& [name, sets] : {std::pair{"tiles", with(kTiled, {"model.vision.frames=3"})},
                                   {"tiles_of_one_frame", kTiled},
                                   {"qformer", kQFormer}}) {
    SCOPED_TRACE(name);
    auto c = config_of("with_clips", samples, sets);
    EXPECT_HAS(message_of<ConfigError>([&] { make_training_data(c); }),
               "with_clips has 8 samples with pictures and 6 with clips, which cannot be in one microbatch; legal: "
               "train.samples_per_microbatch = 1, or two datasets");
    c.mutable_train()->set_samples_per_microbatch(1);
    const StepShape shape = shape_of_data(c, make_training_data(c));
    ASSERT_EQ(shape.kinds.size(), 4u);
    EXPECT_EQ(shape.kinds[0].name, "test, pictures");
    EXPECT_EQ(shape.kinds[0].size.frames, 1);
    EXPECT_EQ(shape.kinds[0].size.pictures.empty(), sets == kQFormer);
    EXPECT_EQ(shape.kinds[1].name, "test, clips");
    EXPECT_EQ(shape.kinds[1].size.frames, sets == kTiled ? 1 : 3);
    EXPECT_EQ(shape.kinds[1].size.media, 1);
    EXPECT_TRUE(shape.kinds[1].size.pictures.empty());
    expect_two_ranks_train_as_one(c);
  }
  auto c = config_of("with_clips", samples, with(kQFormer, {"model.vision.frames=1"}));
  make_training_data(c);  // one frame each: the same to the model
  EXPECT_EQ(shape_of_data(c, make_training_data(c)).kinds.size(), 2u);
}

TEST(clips, are_refused_beside_pictures_of_the_same_sample) {
  testing::Packed both = testing::clip_sample("both", 4);
  const testing::Packed picture = testing::region_sample("p", 3);
  *both.sample.add_media() = picture.sample.media(0);
  both.sample.mutable_turns(0)->set_text("<video> <image> Where?");
  both.media.insert(both.media.end(), picture.media.begin(), picture.media.end());
  EXPECT_HAS(message_of<DataError>([&] { config_of("both", {both}, kQFormer); }),
             "sample 'both' has 1 pictures and 1 clips, which this model cannot take together");
  config_of("both", {both}, with(kQFormer, {"model.vision.frames=1"}));
}

TEST(clips, have_more_frames_than_the_table_of_positions) {
  const auto c = config_of("clips", clips(), with(kQFormer, {"model.vision.frames=2", "model.vision.clip_frames=4"}));
  expect_two_ranks_train_as_one(c);
  expect_plan_is_real(c);
  for (const HostBatch& b : first_step(c, make_training_data(c)).batches) {
    const auto images = b.arrays.find("images");
    EXPECT_TRUE(images == b.arrays.end() || images->second.shape[1] == 4);
  }
}

// A model that could read texts and is given none leaves those weights alone.
TEST(texts_beside_clips, none_by_default) {
  const auto c = config_of("clips", clips(), with(kQFormer, {"model.connector.qformer.text_vocab=15"}));
  expect_two_ranks_train_as_one(c);
  expect_plan_is_real(c);
  const TrainingData data = make_training_data(c);
  for (const HostBatch& b : first_step(c, data).batches) EXPECT_EQ(b.arrays.count("connector_text.ids"), 0u);
}

// Frames are drawn anew every step, tokens are those of the index: the loader would stop the run where they differ.
TEST(frame_messages, train_with_random_frames_and_are_counted_by_the_index) {
  int64_t tokens[2];
  for (const std::string message : {"never", "always"}) {
    const auto c = config_of("clips", clips(), with(kQFormer, {"data.frame_message=" + message}));
    expect_two_ranks_train_as_one(c);
    const TrainingData data = make_training_data(c);
    int64_t& sum = tokens[message == "always"];
    sum = 0;
    for (const LengthEntry& e : data.mixer->datasets()[0].lengths) sum += e.tokens;
  }
  EXPECT_GT(tokens[1], tokens[0] + 6 * 10);
  EXPECT_EQ(make_templates(TinyRun::get().config(), *make_tokenizer(TinyRun::get().config()))->options().frame_message,
            FrameMessage::kTemporalAndHalf);
}

// A clip without its frames per second cannot be told about; in a held-out set too that is said before the first step.
TEST(frame_messages, held_out_sets_are_indexed_before_training_starts) {
  const std::string held_out = TinyRun::get().folder() + "/held_out";
  auto clip = testing::clip_sample("no fps", 7);
  clip.sample.mutable_media(0)->set_fps(0);
  testing::write_dataset(held_out, {clip});
  auto c = config_of("clips", clips(), with(kQFormer, {"data.frame_message=always"}));
  make_training_data(c);
  c.mutable_data()->add_eval_sets()->set_path(held_out);
  const auto error = [&](const auto& body) -> std::string {
    try {
      body();
    } catch (const DataError& e) {
      return e.what();
    }
    return "";
  };
  const auto tokenizer = make_tokenizer(c);
  EXPECT_HAS(error([&] { make_training_data(c); }), "build it with: tpo_dist data index");
  EXPECT_HAS(error([&] { build_length_index(DatasetFolder(held_out), *make_templates(c, *tokenizer), 1); }), "no fps");
  c.mutable_data()->set_frame_message("never");
  for (const std::string& folder : {held_out, c.data().sets(0).path()})
    build_length_index(DatasetFolder(folder), *make_templates(c, *tokenizer), 1);
  make_training_data(c);
}

TEST(texts_beside_clips, what_cannot_be_read_is_refused) {
  const auto error = [](std::vector<std::string> sets) {
    try {
      const auto c = TinyRun::get().config(sets);
      make_templates(c, *make_tokenizer(c));
    } catch (const ConfigError& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  const std::string words = "data.connector_tokenizer=" + bert_words(), ask = "data.connector_text=instruction";
  const std::string vocab = "model.connector.qformer.text_vocab=";
  EXPECT_HAS(error({ask, words}), "only connector.kind qformer with connector.qformer.text_vocab above 0");
  EXPECT_HAS(error(with(kQFormer, {ask, words, vocab + "0"})), "only connector.kind qformer");
  EXPECT_HAS(error(with(kQFormer, {ask, vocab + "15"})), "data.connector_tokenizer must name its tokenizer");
  EXPECT_HAS(error(with(kQFormer, {ask, words, vocab + "14"})), "has 15 pieces, more than");
  EXPECT_HAS(error(with(kQFormer, {ask, words, vocab + "15", "model.connector.qformer.text_positions=2"})),
             "must be at least 3");
  EXPECT_HAS(error({words}), "but data.connector_text is none, so that nothing reads it");
  const std::string train = "train.train.0=connector.word_embeddings.*";
  EXPECT_HAS(error(with(kQFormer, {vocab + "15", train})),
             "pattern \"connector.word_embeddings.*\" matches only parameters that no microbatch");
  EXPECT_EQ(error(with(kQFormer, {ask, words, vocab + "15", train})), "no error");
  EXPECT_HAS(error({"train.train.0=language.embed_tokens.*", "model.language.detach_embeddings=true"}),
             "pattern \"language.embed_tokens.*\" matches only");
  EXPECT_HAS(error({"data.connector_text=all"}), "legal: none, frame_times, instruction, instruction_of_all");
  EXPECT_EQ(error(with(kQFormer, {ask, words, vocab + "15"})), "no error");
}

TEST(data_inspect, shows_slots_tiles_and_texts) {
  const auto shown = [](const config::RunConfig& c) {
    const std::string file = TinyRun::get().folder() + "/inspect.textproto";
    write_text(file, resolved_text(c));
    ::testing::internal::CaptureStdout();
    const int code =
        run_data(std::vector<std::string>{"inspect", c.data().sets(0).path(), "--config", file, "--count", "2"});
    EXPECT_EQ(code, kExitDone);
    return ::testing::internal::GetCapturedStdout();
  };
  const std::string tiles = shown(config_of("shapes", pictures_of_all_shapes(), kTiled));
  EXPECT_HAS(tiles, "slots of 7 view(s)\n  tiles of media 0: 3 x 2, 79 slots, resampled");
  EXPECT_HAS(tiles, "<Image>{");
  const std::string texts =
      shown(config_of("clips", clips(),
                      with(kQFormer, {"model.connector.qformer.text_vocab=15", "data.connector_text=frame_times",
                                      "data.frame_message=always", "data.connector_tokenizer=" + bert_words()})));
  EXPECT_HAS(texts, "beside media 0: ");
  EXPECT_HAS(texts, "<Video>{5}</Video>The clip is shown by 3 frames, taken at 0.0, 0.1, 0.3 seconds.[/INST]");
}

}  // namespace
}  // namespace tpo
