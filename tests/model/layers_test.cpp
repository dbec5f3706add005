// Linear, LoRA, added rows, sinusoid positions, connector, region loss.
#include "core/ops/matmul.h"
#include "core/ops/reduce.h"
#include "model/connector/linear_connector.h"
#include "model/vision/umt_vit.h"
#include "model_fixture.h"

namespace tpo::testing {
namespace {

TEST(Lora, starts_as_its_base_with_peft_bounds) {
  ParamStore store(3);
  const auto tp = make_single();
  const LoraLinear layer(ParamScope(store, "l"), 64, 16, Split::kNone, *tp, Bias::kNo, Init::normal(0, 1),
                         {.rank = 8, .alpha = 16, .dropout = 0});
  const Tensor x = noise_tensor("x", {5, 64});
  EXPECT_EQ(layer(x, {}).to_vector<float>(), layer.base()(x).to_vector<float>());
  const double bound = max_abs(layer.lora_a()->value.to_vector<float>());
  EXPECT_LE(bound, 1.0 / 8);  // 1/sqrt(64)
  EXPECT_GT(bound, 0.9 / 8);  // of 512 draws
}

TEST(Lora, merged_weights_give_the_logits_of_the_adapters) {
  Rig rig;
  fill_with_noise(rig.store);
  const std::vector<Sample> samples{make_sample(rig.model, "a", 9, true, 1, false)};
  const Batch batch = pack(rig.model, samples);
  const NoGradScope no_grad;
  const auto logits = [&] {
    return rig.model.language().logits(rig.model.forward(batch, RngKey())).to_vector<float>();
  };
  const auto adapted = logits();
  const auto weight = rig.store.find("language.lm_head.weight")->value.to_vector<float>();
  rig.model.merge_lora();
  EXPECT_NE(rig.store.find("language.lm_head.weight")->value.to_vector<float>(), weight);
  EXPECT_LE(relative_difference(logits(), adapted), 1e-5);  // the same products in another order
  rig.model.unmerge_lora();
  EXPECT_LE(relative_difference(rig.store.find("language.lm_head.weight")->value.to_vector<float>(), weight), 1e-6);
  rig.store.set_trainable("*", false);
}

TEST(Lora, dropout_is_drawn_per_row_and_only_while_recording) {
  TpoConfig config = tiny_config();
  config.language.lora_dropout = 0.5f;
  Rig rig(config);
  fill_with_noise(rig.store);
  const Sample a = make_sample(rig.model, "a", 9, false, 0, false), b = make_sample(rig.model, "b", 7, false, 0, false);
  const TpoModel::Scales scales{1, 1};
  const Batch together = pack(rig.model, {a, b});
  const double first = run_loss(rig.model, together, scales);
  EXPECT_EQ(run_loss(rig.model, together, scales), first);
  EXPECT_NE(run_loss(rig.model, together, scales, RngKey(2)), first);
  EXPECT_NE(loss_only(rig.model, together, scales), first);
  // The mask of a sample does not depend on its company.
  const double apart =
      run_loss(rig.model, pack(rig.model, {a}), scales) + run_loss(rig.model, pack(rig.model, {b}, 1), scales);
  EXPECT_NEAR(apart, first, 1e-5 * first);
}

TEST(Lora, layers_draw_different_masks) {
  ParamStore store(3);
  const auto tp = make_single();
  const DropoutContext context{RngKey(5), Tensor::from(std::vector<int64_t>{1, 2, 3}, {3})};
  const Tensor x = noise_tensor("x", {3, 64});
  std::vector<std::vector<float>> outputs;
  for (const char* name : {"q", "k"}) {
    const LoraLinear layer(ParamScope(store, name), 64, 16, Split::kNone, *tp, Bias::kNo, Init::constant(0),
                           {.rank = 8, .alpha = 16, .dropout = 0.5f});
    for (Param* p : {layer.lora_a(), layer.lora_b()}) std::fill_n(p->value.data<float>(), p->value.numel(), 0.5f);
    outputs.push_back(layer(x, context).to_vector<float>());
    EXPECT_EQ(layer(x, context).to_vector<float>(), outputs.back());
  }
  EXPECT_NE(outputs[0], outputs[1]);
}

TEST(Embedding, added_rows_are_the_mean_of_the_old_ones_and_frozen_unless_trained) {
  for (const bool train : {false, true}) {
    TpoConfig config = tiny_config();
    config.language.train_new_rows = train;
    const Rig rig(config);
    for (const char* name : {"language.embed_tokens.weight", "language.lm_head.weight"}) {
      const Param& table = *rig.store.find(name);
      EXPECT_EQ(table.frozen_rows_begin, train ? -1 : 29) << name;
      for (int64_t c = 0; c < 24; ++c) {
        double mean = 0;
        for (int64_t r = 0; r < 29; ++r) mean += table.value.data<float>()[r * 24 + c] / 29.0;
        for (int64_t r = 29; r < 36; ++r) ASSERT_NEAR(table.value.data<float>()[r * 24 + c], mean, 1e-8) << name;
      }
    }
  }
}

TEST(Sinusoid, follows_the_formula_and_interpolates_with_half_pixels) {
  const int64_t spatial = 3, width = 8, frame = spatial * width;
  const std::vector<float> table = sinusoid_table(4 * spatial, width);
  for (int64_t j = 0; j < width; ++j) EXPECT_EQ(table[static_cast<size_t>(j)], j % 2 == 0 ? 0.0f : 1.0f);
  for (int64_t p = 0; p < 4 * spatial; ++p) {
    const double angle = static_cast<double>(p) / std::pow(10000.0, 2.0 * 2 / 8);  // columns 4 and 5
    EXPECT_FLOAT_EQ(table[static_cast<size_t>(p * width + 4)], static_cast<float>(std::sin(angle)));
    EXPECT_FLOAT_EQ(table[static_cast<size_t>(p * width + 5)], static_cast<float>(std::cos(angle)));
  }
  const std::vector<float> longer = interpolate_time(table, 4, 16, spatial, width);
  ASSERT_EQ(longer.size(), static_cast<size_t>(16 * frame));
  for (int64_t i = 0; i < frame; ++i) {
    const auto at = [&](int64_t t) { return longer[static_cast<size_t>(t * frame + i)]; };
    const auto old = [&](int64_t t) { return table[static_cast<size_t>(t * frame + i)]; };
    EXPECT_EQ(at(0), old(0));
    EXPECT_EQ(at(1), old(0));
    EXPECT_EQ(at(14), old(3));
    EXPECT_EQ(at(15), old(3));
    EXPECT_FLOAT_EQ(at(2), 0.875f * old(0) + 0.125f * old(1));  // centre (2 + 0.5) / 4 - 0.5 = 0.125
  }
  EXPECT_EQ(interpolate_time(table, 4, 4, spatial, width), table);
}

TEST(Vision, refuses_pictures_of_another_size) {
  const Rig rig;
  EXPECT_THROW(rig.model.vision()(Tensor::zeros({1, 1, 8, 10, 3})), ShapeError);
  EXPECT_THROW(rig.model.vision()(Tensor::zeros({1, 1, 8, 8, 4})), ShapeError);
}

TEST(Connector, slots_follow_the_grid_and_rows_the_neighbourhood) {
  ParamStore store(1);
  const auto tp = make_single();
  const LinearConnector connector(ParamScope(store, "connector"), 3, 5, 2, *tp);
  const PatchGrid grid{2, 3, 4, 6};
  EXPECT_EQ(connector.slots(grid), 3 * 2 * 3);
  EXPECT_EQ(connector({.vision = noise_tensor("v", {2 * 3 * 4 * 6, 3}), .grid = grid}).shape(), Shape({36, 5}));
  EXPECT_THROW(connector.slots({1, 1, 3, 6}), ShapeError);
}

// Plain loops in double of the loss as the header states it.
double region_reference(const std::vector<float>& pred, const std::vector<float>& target, double scale) {
  double l1 = 0, giou = 0;
  for (size_t r = 0; r < pred.size(); r += 4) {
    const float *p = &pred[r], *t = &target[r];
    for (int i = 0; i < 4; ++i) l1 += std::abs(static_cast<double>(p[i]) - t[i]) / 4;
    if (p[2] < p[0] || p[3] < p[1]) {
      giou += 2;
      continue;
    }
    const auto span = [](double a, double b) { return std::max(0.0, b - a); };
    const double both =
        span(std::max(p[0], t[0]), std::min(p[2], t[2])) * span(std::max(p[1], t[1]), std::min(p[3], t[3]));
    const double either = span(p[0], p[2]) * span(p[1], p[3]) + span(t[0], t[2]) * span(t[1], t[3]) - both;
    const double hull =
        span(std::min(p[0], t[0]), std::max(p[2], t[2])) * span(std::min(p[1], t[1]), std::max(p[3], t[3]));
    giou += 1 - (both / either - (hull - either) / hull);
  }
  return scale * (2 * l1 + 0.2 * giou);
}

TEST(RegionLoss, is_two_l1_and_a_fifth_giou_per_box_of_the_step) {
  const RegionConfig config;
  const std::vector<float> target{0.2f, 0.3f, 0.6f, 0.8f};
  const auto loss = [&](const std::vector<float>& pred, const std::vector<float>& truth, float scale) {
    const auto n = static_cast<int64_t>(pred.size() / 4);
    return region_loss(Tensor::from(pred, {n, 4}), Tensor::from(truth, {n, 4}), config, scale).item();
  };
  EXPECT_NEAR(loss(target, target, 1), 0, 1e-6);
  // Inverted: mean L1 is (0.4 + 0.5 + 0.4 + 0.5) / 4, and the constant 2 * 0.2.
  EXPECT_NEAR(loss({0.6f, 0.8f, 0.2f, 0.3f}, target, 1), 2 * 0.45 + 0.4, 1e-6);
  const std::vector<float> pred{0.1f, 0.2f, 0.7f, 0.5f, 0.6f, 0.1f, 0.9f, 0.3f, 0.5f, 0.5f, 0.2f, 0.9f};
  std::vector<float> truth;
  for (int i = 0; i < 3; ++i) truth.insert(truth.end(), target.begin(), target.end());
  EXPECT_NEAR(loss(pred, truth, 0.25f), region_reference(pred, truth, 0.25), 1e-6);
}

TEST(RegionLoss, mse_option_is_the_mean_of_squares) {
  RegionConfig config;
  config.mse = true;
  const Tensor pred = Tensor::from(std::vector<float>{0, 0, 1, 1}, {1, 4});
  const Tensor target = Tensor::from(std::vector<float>{0.5f, 0, 1, 0.8f}, {1, 4});
  EXPECT_NEAR(region_loss(pred, target, config, 2).item(), 2 * (0.25 + 0.04) / 4, 1e-6);
}

}  // namespace
}  // namespace tpo::testing
