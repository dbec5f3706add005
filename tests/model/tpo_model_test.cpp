// The whole model: routing, gradients, packing, recompute, counts.
#include <set>

#include "model_fixture.h"

namespace tpo::testing {
namespace {

constexpr TpoModel::Scales kScales{0.05f, 0.25f};

std::vector<Sample> mixed_samples(const TpoModel& model, int64_t frames = 1) {
  return {make_sample(model, "a", 9, true, 2, true, frames), make_sample(model, "b", 12, false, 0, false),
          make_sample(model, "c", 6, true, 1, false, frames)};
}

std::set<std::string> groups_with_gradient(const ParamStore& store, const Gradients& gradients) {
  std::set<std::string> names;
  for (const auto& [name, g] : gradients)
    names.insert(store.group_names()[static_cast<size_t>(store.find(name)->group)]);
  return names;
}

void expect_groups(const TpoConfig& config, bool text) {
  Rig rig(config);
  fill_with_noise(rig.store);
  for (const bool picture : {false, true}) {
    for (const bool region : {false, true}) {
      for (const bool box : {false, true}) {
        Batch batch = pack(rig.model, {make_sample(rig.model, "s", 8, picture, region, box)});
        if (text && picture) set_connector_text(batch, {{3, 1, 7}});
        run_loss(rig.model, batch, kScales);
        std::set<std::string> expected;
        for (size_t g = 0; g < rig.store.group_names().size(); ++g)
          if (rig.model.groups_used(picture, region, box, text) >> g & 1) expected.insert(rig.store.group_names()[g]);
        const Gradients gradients = take_gradients(rig.store);
        EXPECT_EQ(groups_with_gradient(rig.store, gradients), expected);
        // Every trainable parameter of a used group is reached: none waits for a gradient that never comes.
        for (const auto& p : rig.store.params())
          EXPECT_EQ(gradients.count(p->name) == 1,
                    p->trainable && expected.count(rig.store.group_names()[static_cast<size_t>(p->group)]) == 1)
              << p->name;
      }
    }
  }
}

TEST(TpoModel, a_microbatch_touches_exactly_the_groups_it_says) {
  expect_groups(tiny_config(), false);
  expect_groups(tiny_qformer_config(), false);
  expect_groups(tiny_qformer_config(), true);
  expect_groups(tiny_llava_config(), false);
}

TEST(TpoModel, groups_have_a_fixed_order) {
  const Rig rig;
  EXPECT_EQ(rig.store.group_names(), (std::vector<std::string>{"trunk", "vision", "token.box", "token.temporal",
                                                               "token.track", "box_input", "head.region"}));
}

const std::vector<std::vector<int32_t>> kTexts{{3, 1, 7, 2, 2, 9}, {4}};  // beside the media of mixed_samples

TEST(TpoModel, packed_samples_equal_samples_one_by_one) {
  for (const auto& [config, frames, texts] : {std::tuple{tiny_config(), 1, false},
                                              {tiny_config(), 3, false},
                                              {tiny_qformer_config(), 3, false},
                                              {tiny_qformer_config(), 1, true},
                                              {tiny_llava_config(), 1, false},
                                              {tiny_llava_config(), 3, false}}) {
    Rig rig(config);
    fill_with_noise(rig.store);
    const auto samples = mixed_samples(rig.model, frames);
    Batch all = pack(rig.model, samples);
    if (texts) set_connector_text(all, kTexts);
    const double packed = run_loss(rig.model, all, kScales);
    const Gradients together = take_gradients(rig.store);
    double sum = 0;
    for (size_t i = 0, medium = 0; i < samples.size(); ++i) {  // gradients add up in the parameters
      Batch one = pack(rig.model, {samples[i]}, static_cast<int>(i));
      if (texts && !samples[i].visual_rows.empty()) set_connector_text(one, {kTexts[medium++]});
      sum += run_loss(rig.model, one, kScales);
    }
    EXPECT_NEAR(sum, packed, 1e-5 * packed);
    const Gradients apart = take_gradients(rig.store);
    ASSERT_EQ(apart.size(), together.size());
    // Sums over rows in another order; where rows cancel, hundreds of roundings of 6e-8 are left of a small gradient.
    for (const auto& [name, g] : together) {
      // A zero where keys do not turn: it moves all scores of a query alike.
      if (glob_match("connector.*.k.bias", name) || glob_match("vision.*.k.bias", name)) continue;
      EXPECT_LE(relative_difference(apart.at(name), g), 5e-5) << name;
    }
  }
}

void expect_slopes(TpoConfig config, const std::vector<const char*>& names) {
  QFormerConfig& q = config.connector.qformer;
  q.dropout = q.attention_dropout = q.drop_path = 0;  // none in loss_only
  Rig rig(config);
  fill_with_noise(rig.store);
  const Batch batch = pack(rig.model, mixed_samples(rig.model, 2));
  run_loss(rig.model, batch, kScales);
  const Gradients gradients = take_gradients(rig.store);
  for (const char* name : names) {
    Param& p = *rig.store.find(name);
    const std::vector<float>& g = gradients.at(name);
    // Along the gradient itself: the slope is its length. The step moves the loss by about 0.002, so that fp32 rounding
    // (some 1e-7) stays below a thousandth and few of the kinks of L1, GIoU and ReLU are crossed.
    double norm = 0;
    for (const float x : g) norm += static_cast<double>(x) * x;
    norm = std::sqrt(norm);
    ASSERT_GT(norm, 1e-4) << name;
    const std::vector<float> before = p.value.to_vector<float>();
    const double h = 0.002 / norm;
    const auto at = [&](double step) {
      for (size_t i = 0; i < before.size(); ++i)
        p.value.data<float>()[i] = static_cast<float>(before[i] + step * g[i] / norm);
      return loss_only(rig.model, batch, kScales);
    };
    const double slope = (at(h) - at(-h)) / (2 * h);
    at(0);
    EXPECT_NEAR(slope, norm, 0.01 * norm) << name;
  }
}

TEST(TpoModel, gradients_are_the_slope_of_the_loss) {
  expect_slopes(
      tiny_config(),
      {"vision.patch_embed.weight", "vision.blocks.0.attn.q_bias", "vision.blocks.1.attn.qkv.weight",
       "vision.norm.weight", "connector.proj.weight", "task_tokens.box", "box_encoder.fc1.weight",
       "language.embed_tokens.weight", "language.layers.0.attn.k.weight", "language.layers.0.attn.v.lora_a",
       "language.layers.1.mlp.gate.weight", "language.layers.1.attn_norm.weight", "language.lm_head.weight",
       "language.lm_head.lora_a", "language.lm_head.lora_b", "heads.region.fc1.weight", "heads.region.fc2.bias"});
  expect_slopes(tiny_qformer_config(), {"vision.patch_embed.weight", "connector.queries", "connector.extra_queries",
                                        "connector.embed_norm.bias", "connector.layers.0.cross.k.weight",
                                        "connector.layers.1.attn.v.weight", "connector.layers.2.query_mlp.fc1.weight",
                                        "connector.layers.2.query_norm.weight", "connector.project_up.weight"});
  expect_slopes(tiny_llava_config(),
                {"vision.patch_embed.bias", "vision.position_embedding.weight", "vision.blocks.0.attn.q.bias",
                 "vision.blocks.1.attn.v.weight", "connector.fc1.weight", "connector.fc2.bias", "connector.newline"});
}

// The same kernels on the same numbers, with masks that repeat; what is kept meanwhile differs.
void expect_recompute(TpoConfig config, bool texts) {
  config.language.lora_dropout = 0.3f;
  config.vision.depth = 3, config.language.layers = 5;  // what blocks keep is more than what one block uses
  const std::vector<std::vector<std::string>> frozen = {{}, {"*weight", "*bias"}, {"*lora*"}, {"vision.*", "*norm*"}};
  for (const auto& patterns : frozen) {
    std::vector<Gradients> gradients;
    std::vector<double> loss;
    std::vector<int64_t> kept, live;
    for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
      const auto stream = Stream::make_cpu();
      const StreamScope scope(*stream);
      config.vision.recompute = config.language.recompute = recompute;
      Rig rig(config);
      fill_with_noise(rig.store);
      for (const std::string& pattern : patterns) rig.store.set_trainable(pattern, false);
      Batch batch = pack(rig.model, mixed_samples(rig.model));
      if (texts) set_connector_text(batch, kTexts);
      loss.push_back(run_loss(rig.model, batch, kScales));
      const MemoryUse use = stream->allocator()->memory();
      kept.push_back(use.peak[static_cast<size_t>(MemoryKind::kActivations)]);
      live.push_back(use.live[static_cast<size_t>(MemoryKind::kActivations)]);
      gradients.push_back(take_gradients(rig.store));
    }
    ASSERT_GT(gradients[0].size(), 10u);
    for (size_t i : {1, 2}) {
      EXPECT_EQ(loss[0], loss[i]);
      EXPECT_TRUE(gradients[0] == gradients[i]) << i;  // too long to print
      EXPECT_LT(kept[i], kept[i - 1]) << i << " frozen " << (patterns.empty() ? "nothing" : patterns[0]);
      EXPECT_EQ(live[i], 0) << "nothing outlives the step";
    }
  }
}

TEST(TpoModel, recompute_changes_no_bit_of_loss_and_gradients_and_keeps_less_the_more_it_computes) {
  expect_recompute(tiny_config(), false);
  expect_recompute(tiny_qformer_config(), true);
}

TEST(TpoModel, overwritten_slots_do_not_read_their_embedding) {
  Rig rig;
  fill_with_noise(rig.store);
  const Batch batch = pack(rig.model, mixed_samples(rig.model));
  const NoGradScope no_grad;
  const auto states = [&] { return rig.model.forward(batch, RngKey()).to_vector<float>(); };
  const auto before = states();
  Param& table = *rig.store.find("language.embed_tokens.weight");
  const auto change_row = [&](int32_t id) {
    for (int64_t c = 0; c < 24; ++c) table.value.data<float>()[id * 24 + c] += 1;
  };
  change_row(rig.model.vocabulary().boxes());
  change_row(rig.model.vocabulary().track_box());
  EXPECT_EQ(states(), before);
  change_row(rig.model.vocabulary().box_begin());  // an ordinary row
  EXPECT_NE(states(), before);
  change_row(rig.model.vocabulary().boxes());
  const auto ordinary = states();
  rig.model.task_tokens()[Task::kBox].value.data<float>()[0] += 1;
  EXPECT_NE(states(), ordinary);
}

// The public code puts what is frozen into evaluation.
TEST(TpoModel, what_is_frozen_drops_nothing_while_a_tape_records) {
  TpoConfig config = tiny_qformer_config();
  config.language.lora_dropout = 0.3f;
  struct Case {
    std::vector<std::string> trains;
    bool same_slots, same_states;
  };
  for (const Case& k : {Case{{"language.*.lora_?"}, true, false},
                        {{"connector.queries", "connector.project_up.*", "heads.*"}, true, true},
                        {{"connector.layers.0.attn.q.weight"}, false, false},
                        {{"connector.layers.1.text_mlp.*"}, false, false},
                        {{"language.layers.1.mlp.down.lora_b"}, true, false}}) {
    SCOPED_TRACE(k.trains[0]);
    Rig rig(config);
    fill_with_noise(rig.store);
    rig.store.set_trainable("*", false);
    for (const std::string& pattern : k.trains) rig.store.set_trainable(pattern, true);
    Batch batch = pack(rig.model, mixed_samples(rig.model));
    set_connector_text(batch, {{3, 1, 7}, {2}});
    const auto run = [&] {
      return std::pair{rig.model.embed(batch, RngKey(1)).to_vector<float>(),
                       rig.model.forward(batch, RngKey(1)).to_vector<float>()};
    };
    const auto still = run();
    Tape tape;
    const TapeScope recording(tape);
    const auto trained = run();
    EXPECT_EQ(trained.first == still.first, k.same_slots);
    EXPECT_EQ(trained.second == still.second, k.same_states);
  }
}

TEST(TpoModel, first_training_stage_reaches_adapters_only) {
  TpoConfig config = tiny_config();
  config.language.detach_embeddings = true;
  Rig rig(config);
  fill_with_noise(rig.store);
  EXPECT_FALSE(rig.store.find("language.embed_tokens.weight")->trainable);
  rig.store.set_trainable("*", false);
  EXPECT_EQ(rig.store.set_trainable("*.lora_?", true), 2 * (2 * 7 + 1));  // two layers of seven, and lm_head
  const Batch text = pack(rig.model, {make_sample(rig.model, "t", 12, true, 0, false)});
  run_loss(rig.model, text, kScales);
  const Gradients gradients = take_gradients(rig.store);
  EXPECT_EQ(gradients.size(), 30u);
  for (const auto& [name, g] : gradients) {
    EXPECT_NE(name.find(".lora_"), std::string::npos) << name;
    EXPECT_GT(max_abs(g), 0) << name;
  }
}

TEST(TpoModel, second_training_stage_reaches_token_head_and_adapters) {
  TpoConfig config = tiny_config();
  config.language.detach_embeddings = true;
  Rig rig(config);
  fill_with_noise(rig.store);
  rig.store.set_trainable("*", false);
  for (const char* pattern : {"*.lora_?", "task_tokens.*", "heads.region.*", "box_encoder.*"})
    rig.store.set_trainable(pattern, true);
  run_loss(rig.model, pack(rig.model, {make_sample(rig.model, "r", 9, true, 1, false)}), {0, 1});
  const Gradients gradients = take_gradients(rig.store);
  for (const char* name : {"task_tokens.box", "heads.region.fc1.weight", "heads.region.fc2.bias",
                           "language.layers.0.attn.q.lora_a", "language.layers.1.mlp.down.lora_b"})
    EXPECT_GT(max_abs(gradients.at(name)), 0) << name;
  EXPECT_EQ(gradients.count("task_tokens.temporal") + gradients.count("box_encoder.fc1.weight"), 0u);
  for (const auto& [name, g] : gradients) EXPECT_FALSE(name.starts_with("vision.")) << name;
}

TEST(TpoModel, predicted_boxes_are_the_heads_of_the_slots) {
  Rig rig;
  fill_with_noise(rig.store);
  const Batch batch = pack(rig.model, mixed_samples(rig.model));
  const Tensor boxes = rig.model.predict_boxes(batch);
  ASSERT_EQ(boxes.shape(), Shape({3, 4}));
  const NoGradScope no_grad;
  const Tensor all = rig.model.region_head()(rig.model.forward(batch, RngKey()));
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t i = 0; i < 4; ++i)
      EXPECT_NEAR(boxes.data<float>()[4 * r + i], all.data<float>()[4 * batch.at("region_rows").data<int32_t>()[r] + i],
                  1e-5);
}

TEST(TpoModel, an_incomplete_batch_is_refused_by_name) {
  Rig rig;
  const auto samples = mixed_samples(rig.model);
  for (const char* missing : {"tokens", "targets", "positions", "cu_seqlens", "images", "visual_rows", "region_rows",
                              "region_targets", "box_in", "box_in_rows"}) {
    const Batch whole = pack(rig.model, samples);
    Batch batch;
    for (const auto& [name, t] : whole.tensors())
      if (name != missing) batch.set(name, t);
    try {
      loss_only(rig.model, batch, kScales);
      FAIL() << missing;
    } catch (const ShapeError& e) {
      EXPECT_NE(std::string(e.what()).find(missing), std::string::npos) << e.what();
    }
  }
  Batch batch = pack(rig.model, samples);
  batch.set("visual_rows", Tensor::from(std::vector<int32_t>{1, 2, 3}, {3}));
  EXPECT_THROW(loss_only(rig.model, batch, kScales), ShapeError);
}

TEST(TpoModel, texts_that_nothing_reads_or_that_are_incomplete_are_refused) {
  const auto error = [](const TpoConfig& config, bool picture, const char* missing) {
    const Rig rig(config), with_picture(config);
    Batch given = pack(with_picture.model, {make_sample(with_picture.model, "s", 8, true, 0, false)});
    set_connector_text(given, {{1, 2}});
    Batch batch = pack(rig.model, {make_sample(rig.model, "s", 8, picture, 0, false)});
    for (const auto& [name, t] : given.tensors())
      if (name.starts_with("connector_text.") && name != missing) batch.set(name, t);
    try {
      loss_only(rig.model, batch, kScales);
    } catch (const ShapeError& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  EXPECT_EQ(error(tiny_qformer_config(), true, ""), "no error");
  EXPECT_TRUE(has(error(tiny_config(), true, ""), "this connector reads no texts"));
  EXPECT_TRUE(has(error(tiny_llava_config(), true, ""), "this connector reads no texts"));
  EXPECT_TRUE(has(error(tiny_qformer_config(), false, ""), "needs 'images'"));
  EXPECT_TRUE(has(error(tiny_qformer_config(), true, "connector_text.ids"), "come together"));
  EXPECT_TRUE(has(error(tiny_qformer_config(), true, "connector_text.order"), "come together"));
}

// The same step on host memory and on meta: what a dry run predicts.
TEST(TpoModel, meta_predicts_launches_and_peak_bytes) {
  for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
    for (auto [config, texts] : {std::pair{tiny_config(), false},
                                 {tiny_llava_config(), false},
                                 {tiny_qformer_config(), false},
                                 {tiny_qformer_config(), true}}) {
      config.vision.recompute = config.language.recompute = recompute;
      std::map<std::string, int64_t, std::less<>> launches[2];
      int64_t peak[2], live[2];
      const std::unique_ptr<Stream> streams[2] = {Stream::make_cpu(), Stream::make_meta()};
      for (int i = 0; i < 2; ++i) {
        const StreamScope scope(*streams[i]);
        Rig rig(config);
        for (int step = 0; step < 2; ++step) {
          Batch batch = pack(rig.model, mixed_samples(rig.model));
          if (texts) set_connector_text(batch, kTexts);
          run_loss(rig.model, batch, kScales);
        }
        launches[i] = streams[i]->launches_by_kernel();
        peak[i] = streams[i]->allocator()->stats().peak_bytes;
        live[i] = streams[i]->allocator()->stats().live_bytes;
      }
      EXPECT_EQ(launches[0], launches[1]);
      EXPECT_EQ(peak[0], peak[1]);
      EXPECT_EQ(live[0], live[1]);
    }
  }
}

// At widths where elementwise work is small, and lengths where attention is not, the formula must meet what the
// launches add up to.
// text: tokens beside each of the three clips.
void expect_flops(TpoConfig config, int64_t text = 0) {
  const std::unique_ptr<Stream> stream = Stream::make_meta();
  const StreamScope scope(*stream);
  config.vision = {.kind = config.vision.kind,
                   .image_size = 64,
                   .patch = 8,
                   .frames = 4,
                   .tubelet = 1,
                   .width = 2048,
                   .heads = 4,
                   .depth = 3,
                   .mlp_hidden = 8192};
  LanguageConfig& l = config.language;
  l.vocab = 4093, l.width = 4096, l.layers = 3, l.heads = 8, l.kv_heads = 4, l.head_dim = 512, l.mlp_hidden = 14336;
  l.lora_rank = 256;
  config.region.hidden = 2048, config.box_encoder_hidden = 2048;
  const std::vector<std::vector<std::string>> frozen = {
      {}, {"*"}, {"vision.*", "connector.*"}, {"language.*weight"}, {"*weight", "*bias"}};
  for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
    config.vision.recompute = l.recompute = recompute;
    Rig rig(config);
    std::vector<Sample> samples;
    for (int i = 0; i < 3; ++i) samples.push_back(make_sample(rig.model, "s", 6000, true, 1, true, 2));
    // Meta has no target values, so its launch counts every row as one with a label.
    MicrobatchSize size = size_of_batch(samples);
    size.loss_rows = std::accumulate(size.sequences.begin(), size.sequences.end(), int64_t{0});
    std::vector<std::vector<int32_t>> texts;
    for (const int64_t n : {text, int64_t{0}, text / 2}) texts.emplace_back(static_cast<size_t>(n));
    if (text > 0) size.connector_texts = {text, 0, text / 2};
    for (const auto& patterns : frozen) {
      rig.store.set_trainable("*", true);
      for (const std::string& pattern : patterns) rig.store.set_trainable(pattern, false);
      Batch batch = pack(rig.model, samples);
      if (text > 0) set_connector_text(batch, texts);
      const int64_t before = stream->counters().flops;
      if (rig.store.numel(true) > 0) {
        run_loss(rig.model, batch, kScales);
      } else {
        const NoGradScope no_grad;
        rig.model.loss(batch, kScales, RngKey());
      }
      const double launched = static_cast<double>(stream->counters().flops - before);
      EXPECT_NEAR(static_cast<double>(rig.model.flops(size)) / launched, 1, 0.01)
          << "frozen " << (patterns.empty() ? "nothing" : patterns[0]);
    }
  }
}

// Meta knows no labels, so on the host: logits of one row, and the adapter's first product of all 64, a twentieth of
// all products; what is elementwise is below two hundredths at this width.
TEST(TpoModel, flops_count_the_head_of_labelled_rows_and_its_adapter_of_all) {
  const std::unique_ptr<Stream> stream = Stream::make_cpu();
  const StreamScope scope(*stream);
  TpoConfig config = tiny_config();
  LanguageConfig& l = config.language;
  l.width = 512, l.layers = 1, l.heads = 4, l.head_dim = 128, l.mlp_hidden = 1024;
  l.lora_rank = 256, l.lora_targets = {"lm_head"};
  const Rig rig(config);
  Sample s = make_sample(rig.model, "s", 64, false, 0, false);
  s.targets.assign(s.tokens.size(), -100);
  s.targets[5] = 3;
  MicrobatchSize size = size_of_batch({s});
  size.loss_rows = 1;
  const Batch batch = pack(rig.model, {s});
  const int64_t before = stream->counters().flops;
  run_loss(rig.model, batch, kScales);
  EXPECT_NEAR(static_cast<double>(rig.model.flops(size)) / static_cast<double>(stream->counters().flops - before), 1,
              0.02);
}

TEST(TpoModel, flops_formula_equals_what_was_launched) {
  expect_flops(tiny_config());
  TpoConfig config = tiny_qformer_config();
  config.connector.qformer = {
      .layers = 3, .width = 1536, .heads = 3, .mlp_hidden = 8192, .queries = 512, .extra_queries = 512};
  expect_flops(config);
  config.connector.qformer.text_vocab = 600, config.connector.qformer.text_positions = 2000;
  expect_flops(config, 2000);
  expect_flops(tiny_llava_config());
}

}  // namespace
}  // namespace tpo::testing
