// Model parts against public PyTorch implementations at small widths: golden/make_golden.py says which and how.
#include <fstream>
#include <sstream>

#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "model_fixture.h"

namespace tpo::testing {
namespace {

// The oracles compute in float64, we in fp32: rounding of sums of some hundred terms, far below a wrong formula.
constexpr double kTolerance = 1e-4;

using Arrays = std::map<std::string, std::vector<float>>;

Arrays read_golden(const std::string& name) {
  std::ifstream in(std::string(TPO_GOLDEN_DIR) + "/" + name, std::ios::binary);
  std::string line;
  std::getline(in, line);
  if (line != "tpo-golden 1") throw IoError("no golden file " + name);
  std::vector<std::pair<std::string, size_t>> table;
  while (std::getline(in, line) && line != "data") {
    std::istringstream words(line);
    std::string array;
    words >> array;
    if (array == "#") continue;
    size_t count = 1, extent = 0;
    while (words >> extent) count *= extent;
    table.emplace_back(array, count);
  }
  Arrays arrays;
  for (const auto& [array, count] : table) {
    std::vector<float>& v = arrays[array];
    v.resize(count);
    in.read(reinterpret_cast<char*>(v.data()), static_cast<std::streamsize>(count * sizeof(float)));
  }
  if (!in || in.peek() != EOF) throw IoError("golden file " + name + " has another length than its table");
  return arrays;
}

// Every gradient of the golden file exists and agrees, and there is no other.
void expect_gradients(const Arrays& golden, const Gradients& ours) {
  size_t expected = 0;
  for (const auto& [name, reference] : golden) {
    if (!name.starts_with("grad.")) continue;
    ++expected;
    const auto it = ours.find(name.substr(5));
    ASSERT_NE(it, ours.end()) << name << " is missing";
    EXPECT_LE(relative_difference(it->second, reference), kTolerance) << name;
  }
  EXPECT_GT(expected, 0u);
  EXPECT_EQ(ours.size(), expected);
}

void compare_language(const std::string& file, int64_t lora_rank) {
  const Arrays golden = read_golden(file);
  LanguageConfig c;
  c.vocab = 29, c.width = 32, c.layers = 2, c.heads = 4, c.kv_heads = 2, c.head_dim = 8, c.mlp_hidden = 48;
  c.rope_theta = 1e4f;
  c.lora_rank = lora_rank, c.lora_alpha = 8;
  ParamStore store(1);
  const auto tp = make_single();
  const Decoder decoder(ParamScope(store, "language"), c, *tp);
  fill_with_noise(store);
  if (lora_rank > 0) store.set_trainable("*", false), store.set_trainable("*.lora_?", true);
  // Both sequences packed in one microbatch; the oracle ran them one by one.
  const std::vector<int32_t> lengths{13, 8};
  std::vector<int32_t> ids, targets, positions, cu{0};
  for (const float u : noise("tokens", 21)) ids.push_back(static_cast<int32_t>((u + 1.0f) * 18.0f));
  for (const int32_t n : lengths) {
    for (int32_t i = 0; i < n; ++i) {
      positions.push_back(i);
      targets.push_back(i + 1 < n ? ids[positions.size()] : -100);
    }
    cu.push_back(cu.back() + n);
  }
  const SequenceContext context{Tensor::from(cu, {3}), Tensor::from(positions, {21}), {}};
  Tape tape;
  const TapeScope scope(tape);
  const Tensor hidden = decoder(decoder.embed(Tensor::from(ids, {21})), context);
  const Tensor loss = decoder.loss(hidden, Tensor::from(targets, {21}), 1.0f / 19, {});
  tape.backward(loss);
  EXPECT_LE(relative_difference(loss.to_vector<float>(), golden.at("loss")), kTolerance);
  if (golden.count("logits") != 0) {
    EXPECT_LE(relative_difference(decoder.logits(hidden.detach()).to_vector<float>(), golden.at("logits")), kTolerance);
  }
  expect_gradients(golden, take_gradients(store));
}

void compare_vision(const std::string& file, int64_t media, int64_t frames, int64_t table_frames, int64_t tubelet) {
  const Arrays golden = read_golden(file);
  const VisionConfig c{.image_size = 16,
                       .patch = 4,
                       .frames = table_frames,
                       .tubelet = tubelet,
                       .width = 16,
                       .heads = 2,
                       .depth = 2,
                       .mlp_hidden = 64};
  ParamStore store(1);
  const auto tp = make_single();
  const UmtVit vit(ParamScope(store, "vision"), c, *tp);
  fill_with_noise(store);
  Tape tape;
  const TapeScope scope(tape);
  const Tensor y = vit(noise_tensor("images", {media, frames, 16, 16, 3}));
  tape.backward(sum_all(mul(y, noise_tensor("dy", y.shape()))));
  EXPECT_LE(relative_difference(y.to_vector<float>(), golden.at("output")), kTolerance);
  expect_gradients(golden, take_gradients(store));
}

TEST(Golden, decoder_equals_transformers_mistral) { compare_language("mistral.golden", 0); }
TEST(Golden, adapters_equal_peft) { compare_language("lora.golden", 4); }
TEST(Golden, vision_equals_public_umt_on_images) { compare_vision("umt_image.golden", 3, 1, 4, 1); }
TEST(Golden, vision_equals_public_umt_on_clips_of_another_length) { compare_vision("umt_clip.golden", 2, 6, 4, 1); }
TEST(Golden, vision_equals_public_umt_with_tubelets) { compare_vision("umt_tubelet.golden", 1, 4, 4, 2); }

}  // namespace
}  // namespace tpo::testing
