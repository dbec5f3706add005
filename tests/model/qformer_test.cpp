// The Q-Former against the public one (golden/qformer_golden.py), and what a batch of texts, dropout and groups do.
#include "model/connector/qformer.h"

#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "golden.h"
#include "model/connector/text_rows.h"

namespace tpo::testing {
namespace {

constexpr int64_t kMedia = 3, kTokens = 7, kVision = 10, kOut = 14, kSlots = 5;

QFormerConfig config_of(bool text) {
  QFormerConfig c;
  c.layers = 4, c.width = 12, c.heads = 3, c.mlp_hidden = 20, c.queries = 3, c.extra_queries = 2;
  c.text_vocab = text ? 17 : 0, c.text_positions = 9;
  return c;
}

struct Former {
  ParamStore store{1};
  std::unique_ptr<ProcessGroup> tp = make_single();
  QFormer former;

  explicit Former(const QFormerConfig& c) : former(ParamScope(store, "connector"), c, kVision, kOut, *tp) {
    fill_with_noise(store);
  }
};

ConnectorText text_of(const std::vector<std::vector<int32_t>>& texts) {
  HostBatch host;
  add_connector_text(host, texts, kSlots, std::vector<int64_t>(texts.size(), 0));
  const Batch b = upload(host);
  const auto part = [&](const char* name) { return b.at(cat("connector_text.", name)); };
  return {part("ids"),      part("positions"), part("row_ids"), part("medium"),
          part("joint_cu"), part("order"),     part("back")};
}

std::vector<std::vector<int32_t>> golden_texts() {
  std::vector<std::vector<int32_t>> texts;
  for (const int64_t n : {4, 0, 2}) {
    texts.emplace_back();
    for (const float u : noise(cat("text", texts.size() - 1), n))
      texts.back().push_back(1 + static_cast<int32_t>((u + 1.0f) * 8));
  }
  return texts;
}

void compare(const std::string& file, bool with_text) {
  Golden golden(file);
  Former f(config_of(with_text));
  Tape tape;
  const TapeScope scope(tape);
  const Tensor vision = tape.watch(noise_tensor("vision", {kMedia * kTokens, kVision}));
  ConnectorInput in{.vision = vision, .grid = {kMedia, 1, 1, kTokens}};
  if (with_text) in.text = text_of(golden_texts());
  const Tensor y = f.former(in);
  tape.backward(sum_all(mul(y, noise_tensor("dy", y.shape()))));
  golden.expect("output", y.to_vector<float>());
  golden.expect("vision_grad", tape.grad(vision).to_vector<float>());
  golden.expect_gradients(take_gradients(f.store), ".k.bias");  // it moves all scores of a query alike
}

TEST(QFormerTest, equals_the_public_one) { compare("qformer.golden", false); }
TEST(QFormerTest, equals_the_public_one_with_texts_of_several_lengths) { compare("qformer_text.golden", true); }

// What one medium gives does not depend on the others, with and without its text.
TEST(QFormerTest, media_are_independent) {
  const Former f(config_of(true));
  const auto texts = golden_texts();
  const Tensor vision = noise_tensor("vision", {kMedia * kTokens, kVision});
  const std::vector<float> all = f.former({vision, {kMedia, 1, 1, kTokens}, text_of(texts)}).to_vector<float>();
  const std::vector<float> v = vision.to_vector<float>();
  for (int64_t i = 0; i < kMedia; ++i) {
    const std::vector<float> own(v.begin() + i * kTokens * kVision, v.begin() + (i + 1) * kTokens * kVision);
    const ConnectorInput in{
        Tensor::from(own, {kTokens, kVision}), {1, 1, 1, kTokens}, text_of({texts[static_cast<size_t>(i)]})};
    const std::vector<float> want(all.begin() + i * kSlots * kOut, all.begin() + (i + 1) * kSlots * kOut);
    EXPECT_LE(relative_difference(f.former(in).to_vector<float>(), want), 1e-5) << i;
  }
}

// Masks follow row ids, not places; without row ids there are none; a whole branch of a medium goes or stays.
TEST(QFormerTest, dropout_is_a_function_of_row_ids) {
  QFormerConfig c = config_of(false);
  c.dropout = 0.3f, c.drop_path = 0.5f;
  const Former f(c);
  const Tensor one = noise_tensor("vision", {kTokens, kVision});
  std::vector<float> twice = one.to_vector<float>();
  twice.insert(twice.end(), twice.begin(), twice.end());
  const auto ids = [](std::vector<int64_t> first) {
    std::vector<int64_t> all;
    for (const int64_t id : first)
      for (int64_t q = 0; q < kSlots; ++q) all.push_back(id + q);
    return Tensor::from(all, {static_cast<int64_t>(all.size())});
  };
  const auto run = [&](std::vector<int64_t> first) {
    return f.former({Tensor::from(twice, {2 * kTokens, kVision}), {2, 1, 1, kTokens}, {}, RngKey(3), ids(first)})
        .to_vector<float>();
  };
  const auto half = [](const std::vector<float>& v, size_t which) {
    return std::vector<float>(v.begin() + static_cast<std::ptrdiff_t>(which * v.size() / 2),
                              v.begin() + static_cast<std::ptrdiff_t>((which + 1) * v.size() / 2));
  };
  const auto same = run({100, 100}), other = run({200, 100});
  EXPECT_LE(relative_difference(half(same, 0), half(same, 1)), 1e-5);
  EXPECT_GT(relative_difference(half(other, 0), half(other, 1)), 0.1);
  EXPECT_LE(relative_difference(half(other, 1), half(same, 1)), 1e-5);
  const auto still = f.former({one, {1, 1, 1, kTokens}}).to_vector<float>();
  EXPECT_GT(relative_difference(half(same, 0), still), 0.1);
}

TEST(QFormerTest, a_text_needs_a_vocabulary_and_row_ids_the_right_number) {
  const Former f(config_of(false));
  const Tensor vision = noise_tensor("vision", {kTokens, kVision});
  EXPECT_THROW(f.former({vision, {1, 1, 1, kTokens}, text_of({{1, 2}})}), ShapeError);
  EXPECT_THROW(f.former({vision, {1, 1, 1, kTokens}, {}, RngKey(1), Tensor::from(std::vector<int64_t>{1}, {1})}),
               ShapeError);
  HostBatch host;
  EXPECT_THROW(add_connector_text(host, std::vector<std::vector<int32_t>>{{1}}, kSlots, std::vector<int64_t>{}),
               ShapeError);
}

}  // namespace
}  // namespace tpo::testing
