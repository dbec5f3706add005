// The language model against transformers and peft at small widths: golden/language_golden.py says how.
#include "golden.h"
#include "model/language/decoder.h"

namespace tpo::testing {
namespace {

struct Case {
  const char* name;
  int64_t rows, width, heads, kv_heads, head_dim, mlp_hidden;
  float theta, eps;
  std::vector<int32_t> lengths;
  int64_t lora_rank = 0;
  float lora_alpha = 1;
};

// CASES of golden/language_golden.py.
const Case kCases[] = {
    {"mistral", 36, 32, 4, 2, 8, 48, 1e4f, 1e-5f, {13, 8}},
    {"mistral_odd", 41, 27, 3, 1, 10, 35, 1e6f, 1e-5f, {1, 16, 5}},
    {"qwen2", 43, 30, 5, 1, 6, 37, 1e6f, 1e-6f, {9, 1, 4}},
    {"mistral_lora", 36, 32, 4, 2, 8, 48, 1e4f, 1e-5f, {13, 8}, 4, 8},
    {"qwen2_lora", 43, 28, 14, 2, 2, 19, 1e6f, 1e-6f, {17}, 3, 7},
    {"qwen2_one_row", 36, 12, 2, 2, 6, 5, 1e4f, 1e-6f, {1}, 1, 1},
};

LanguageConfig config_of(const Case& c) {
  LanguageConfig l;
  l.vocab = 29, l.table_rows = c.rows;
  l.width = c.width, l.layers = 2, l.heads = c.heads, l.kv_heads = c.kv_heads, l.head_dim = c.head_dim;
  l.mlp_hidden = c.mlp_hidden, l.rope_theta = c.theta, l.rms_eps = c.eps;
  l.qkv_bias = std::string_view(c.name).starts_with("qwen2");
  l.lora_rank = c.lora_rank, l.lora_alpha = c.lora_alpha;
  return l;
}

struct Rigged {
  explicit Rigged(const Case& c, const Numbers& numbers = {})
      : store(1, numbers.storage), decoder(ParamScope(store, "language"), config_of(c), *tp) {
    numbers.fill(store);
    if (c.lora_rank > 0) store.set_trainable("*", false), store.set_trainable("*.lora_?", true);
  }
  // Sequences of these lengths packed -> states (N, C).
  Tensor states(const std::vector<int32_t>& ids, const std::vector<int32_t>& lengths) const {
    std::vector<int32_t> positions, cu{0};
    for (const int32_t n : lengths) {
      for (int32_t i = 0; i < n; ++i) positions.push_back(i);
      cu.push_back(cu.back() + n);
    }
    const auto N = static_cast<int64_t>(ids.size());
    return decoder(decoder.embed(Tensor::from(ids, {N})),
                   {Tensor::from(cu, {static_cast<int64_t>(cu.size())}), Tensor::from(positions, {N}), {}});
  }

  ParamStore store;
  std::unique_ptr<ProcessGroup> tp = make_single();
  Decoder decoder;
};

std::map<std::string, std::vector<float>> values_of(const ParamStore& store) {
  std::map<std::string, std::vector<float>> out;
  for (const auto& p : store.params()) out[p->name] = floats(p->value);
  return out;
}

// Ids or labels below `rows`, as noise says.
std::vector<int32_t> draw(const char* name, int64_t rows, int64_t n) {
  std::vector<int32_t> out;
  for (const float u : noise(name, n)) out.push_back(static_cast<int32_t>((u + 1.0f) * static_cast<float>(rows) / 2));
  return out;
}

TEST(LanguageGolden, outputs_and_gradients_equal_transformers_and_peft) {
  for (const Case& c : kCases) {
    Golden(c.name).expect([&](const Numbers& numbers) {
      Rigged run(c, numbers);
      const int64_t N = std::accumulate(c.lengths.begin(), c.lengths.end(), int64_t{0});
      std::vector<int32_t> labels = draw("targets", c.rows, N);
      for (int32_t& label : labels)
        if (label % 5 == 3) label = -100;
      Arrays out;
      {
        Tape tape;
        const TapeScope scope(tape);
        const Tensor hidden = run.states(draw("tokens", c.rows, N), c.lengths);
        const Tensor loss =
            run.decoder.loss(hidden, Tensor::from(labels, {N}), static_cast<float>(1.0 / static_cast<double>(N)), {});
        tape.backward(loss);
        EXPECT_GT(loss.item(), 0) << c.name;
        out["loss"] = loss.to_vector<float>();
        out["logits"] = run.decoder.logits(hidden.detach()).to_vector<float>();
      }
      add_gradients(out, run.store);
      if (c.lora_rank == 0) return out;
      const NoGradScope no_grad;
      const auto logits = [&] {
        return run.decoder.logits(run.states(draw("tokens", c.rows, N), c.lengths)).to_vector<float>();
      };
      const auto before = values_of(run.store);
      run.decoder.merge_lora();
      out["merged"] = logits();
      const auto merged = values_of(run.store);
      run.decoder.unmerge_lora();
      // Rounded once merged and once unmerged; in fp32 the sum of `rank` products in between counts too.
      const double ulp = numbers.storage == DType::kF32 ? 0x1p-24 * static_cast<double>(2 + c.lora_rank) : 0x1p-8;
      for (const auto& [name, after] : values_of(run.store))
        for (size_t i = 0; i < after.size(); ++i)
          EXPECT_LE(std::abs(static_cast<double>(after[i]) - before.at(name)[i]),
                    ulp * (std::abs(merged.at(name)[i]) + std::abs(after[i]) + std::abs(before.at(name)[i])))
              << name;
      return out;
    });
  }
}

TEST(LanguageGolden, a_packed_sequence_equals_itself_alone) {
  for (const Case& c : kCases) {
    const Rigged run(c);
    const std::vector<int32_t> lengths{5, 1, 16, 1};
    const std::vector<int32_t> ids = draw("packed", c.rows, 23);
    const NoGradScope no_grad;
    const Tensor packed = run.states(ids, lengths);
    int32_t begin = 0;
    for (const int32_t n : lengths) {
      const Tensor alone = run.states({ids.begin() + begin, ids.begin() + begin + n}, {n});
      // Products of few rows take other kernels, whose sums round differently: a few ulp a layer.
      EXPECT_LE(relative_difference(packed.rows(begin, begin + n).to_vector<float>(), alone.to_vector<float>()), 1e-5)
          << c.name << ' ' << begin;
      begin += n;
    }
  }
}

}  // namespace
}  // namespace tpo::testing
