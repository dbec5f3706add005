// The Q-Former against the public one (golden/qformer_golden.py), and what a batch of texts, dropout and groups do.
#include "model/connector/qformer.h"

#include "core/connector_text.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "golden.h"

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
  ParamStore store;
  std::unique_ptr<ProcessGroup> tp = make_single();
  QFormer former;

  explicit Former(const QFormerConfig& c, const Numbers& numbers = {})
      : store(1, numbers.storage), former(ParamScope(store, "connector"), c, kVision, kOut, *tp) {
    numbers.fill(store);
  }
};

// first: row ids of the first query of each medium; none: zeros.
ConnectorText text_of(const std::vector<std::vector<int32_t>>& texts, std::vector<int64_t> first = {},
                      int64_t slots = kSlots) {
  HostBatch host;
  first.resize(texts.size());
  add_connector_text(host, texts, slots, first);
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
  Golden(file, {{"*.k.bias"}}).expect([&](const Numbers& numbers) {  // which moves all scores of a query alike
    const Former f(config_of(with_text), numbers);
    Tape tape;
    const TapeScope scope(tape);
    const Tensor vision = tape.watch(numbers.noise("vision", {kMedia * kTokens, kVision}));
    ConnectorInput in{.vision = vision, .grid = {kMedia, 1, 1, kTokens}};
    if (with_text) in.text = text_of(golden_texts());
    const Tensor y = f.former(in);
    tape.backward(sum_all(mul(y, numbers.noise("dy", y.shape()))));
    Arrays out{{"output", floats(y)}, {"vision_grad", floats(tape.grad(vision))}};
    add_gradients(out, f.store);
    return out;
  });
}

TEST(QFormerTest, equals_the_public_one) { compare("qformer", false); }
TEST(QFormerTest, equals_the_public_one_with_texts_of_several_lengths) { compare("qformer_text", true); }

// Row ids of the queries of media whose first rows have these.
Tensor query_ids(const std::vector<int64_t>& first) {
  std::vector<int64_t> all;
  for (const int64_t id : first)
    for (int64_t q = 0; q < kSlots; ++q) all.push_back(id + q);
  return Tensor::from(all, {static_cast<int64_t>(all.size())});
}

// What one medium gives does not depend on the others, with and without its text, and with all kinds of dropout: masks
// follow the rows of queries and texts into self-attention, where their order depends on the other media.
TEST(QFormerTest, media_are_independent) {
  const Former f(config_of(true));
  const auto texts = golden_texts();
  const Tensor vision = noise_tensor("vision", {kMedia * kTokens, kVision});
  const std::vector<float> v = vision.to_vector<float>();
  for (const bool drops : {false, true}) {
    const auto run = [&](const Tensor& tokens, const std::vector<std::vector<int32_t>>& some,
                         const std::vector<int64_t>& first) {
      const auto media = static_cast<int64_t>(some.size());
      ConnectorInput in{tokens, {media, 1, 1, kTokens}, text_of(some, first), RngKey(3)};
      if (drops) in.row_ids = query_ids(first);
      return f.former(in).to_vector<float>();
    };
    const std::vector<int64_t> first{100, 7, 3000};
    const std::vector<float> all = run(vision, texts, first);
    for (int64_t i = 0; i < kMedia; ++i) {
      const std::vector<float> own(v.begin() + i * kTokens * kVision, v.begin() + (i + 1) * kTokens * kVision);
      const std::vector<float> want(all.begin() + i * kSlots * kOut, all.begin() + (i + 1) * kSlots * kOut);
      const auto at = static_cast<size_t>(i);
      EXPECT_LE(relative_difference(run(Tensor::from(own, {kTokens, kVision}), {texts[at]}, {first[at]}), want), 1e-5)
          << i;
    }
  }
}

// Masks follow row ids, not places; without row ids there are none; a whole branch of a medium goes or stays. Each kind
// of dropout alone, with and without texts.
TEST(QFormerTest, dropout_is_a_function_of_row_ids) {
  const Tensor one = noise_tensor("vision", {kTokens, kVision});
  std::vector<float> twice = one.to_vector<float>();
  twice.insert(twice.end(), twice.begin(), twice.end());
  const auto half = [](const std::vector<float>& v, size_t which) {
    return std::vector<float>(v.begin() + static_cast<std::ptrdiff_t>(which * v.size() / 2),
                              v.begin() + static_cast<std::ptrdiff_t>((which + 1) * v.size() / 2));
  };
  struct Shares {
    float dropout, attention, path;
  };
  for (const Shares& s : {Shares{0.3f, 0, 0}, {0, 0.3f, 0}, {0, 0, 0.5f}, {0, 0, 0}})
    for (const bool text : {false, true}) {
      SCOPED_TRACE(cat(s.dropout, " ", s.attention, " ", s.path, " ", text));
      QFormerConfig c = config_of(text);
      c.dropout = s.dropout, c.attention_dropout = s.attention, c.drop_path = s.path;
      const Former f(c);
      const auto run = [&](std::vector<int64_t> first, bool drops = true) {
        ConnectorInput in{Tensor::from(twice, {2 * kTokens, kVision}), {2, 1, 1, kTokens}, {}, RngKey(3)};
        if (text) in.text = text_of({{1, 2, 3}, {1, 2, 3}}, first);
        if (drops) in.row_ids = query_ids(first);
        return f.former(in).to_vector<float>();
      };
      const auto same = run({100, 100}), other = run({200, 100}), still = run({100, 100}, false);
      EXPECT_LE(relative_difference(half(same, 0), half(same, 1)), 1e-5);
      EXPECT_LE(relative_difference(half(other, 1), half(same, 1)), 1e-5);
      if (s.dropout + s.attention + s.path == 0) {
        EXPECT_EQ(same, still);
        continue;
      }
      EXPECT_GT(relative_difference(half(other, 0), half(other, 1)), 0.01);
      EXPECT_GT(relative_difference(half(same, 0), half(still, 0)), 0.01);
    }
}

// Queries and texts stand in one self-attention: no text has the row id of a query.
TEST(QFormerTest, texts_have_row_ids_of_their_own) {
  const int64_t first = 16;  // times 2^16 it is the first row of the second slot of a step
  for (const int64_t id : text_of({{1, 2, 3}}, {first}).row_ids.to_vector<int64_t>()) EXPECT_LT(id, 0);
}

// One text where there are three media would let them see each other.
TEST(QFormerTest, texts_of_another_number_of_media_are_refused_by_name) {
  const Former f(config_of(true));
  const Tensor vision = noise_tensor("vision", {kMedia * kTokens, kVision});
  const auto error = [&](const ConnectorText& text) {
    try {
      f.former({vision, {kMedia, 1, 1, kTokens}, text});
    } catch (const ShapeError& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  const ConnectorText right = text_of(golden_texts());
  EXPECT_EQ(error(right), "no error");
  EXPECT_NE(error(text_of({{1, 2}})).find("connector_text.order (7) must be (17)"), std::string::npos)
      << error(text_of({{1, 2}}));
  for (const auto& [name, member] : {std::pair{"positions", &ConnectorText::positions},
                                     {"medium", &ConnectorText::medium},
                                     {"joint_cu", &ConnectorText::joint_cu},
                                     {"order", &ConnectorText::order},
                                     {"back", &ConnectorText::back},
                                     {"row_ids", &ConnectorText::row_ids}}) {
    ConnectorText wrong = right;
    wrong.*member = Tensor::zeros({2}, (right.*member).dtype());
    EXPECT_NE(error(wrong).find(cat("connector_text.", name, " (2) must be (")), std::string::npos) << error(wrong);
  }
}

// A branch goes or stays for all rows of a medium where queries and text share it, in self-attention; the feed-forwards
// are two, which go apart. A row whose branch is gone has the bits of a branch of zeros.
TEST(QFormerTest, paths_are_common_in_self_attention_and_apart_in_the_feed_forwards) {
  QFormerConfig c = config_of(true);
  c.layers = 3, c.dropout = c.attention_dropout = 0, c.drop_path = 0.9f;  // 0.45 in the second layer
  constexpr int64_t media = 24;                                           // of one query and one token of text each
  ParamStore store(1);
  const auto tp = make_single();
  const QFormerLayer layer(ParamScope(store, "layer"), c, kVision, 1, *tp);
  std::vector<int64_t> first(media);
  std::vector<int32_t> cu{0};
  for (int64_t i = 0; i < media; ++i) first[static_cast<size_t>(i)] = 7 * i, cu.push_back(static_cast<int32_t>(i + 1));
  ConnectorInput in;
  in.text = text_of(std::vector<std::vector<int32_t>>(media, {1}), first, 1);
  in.key = RngKey(3), in.row_ids = Tensor::from(first, {media});
  const QFormerPass pass{.in = &in,
                         .query_rows = media,
                         .cu_queries = Tensor::from(cu, {media + 1}),
                         .query_paths = in.row_ids,
                         .text_paths = in.row_ids};
  const Tensor x = noise_tensor("x", {2 * media, c.width});
  const auto without = [&](const char* branch) {
    for (const auto& p : store.params())
      if (glob_match(branch, p->name)) std::fill_n(p->value.data<float>(), p->value.numel(), 0.0f);
    return layer(x, pass).to_vector<float>();
  };
  const auto gone = [&](const char* other, const char* branch) {
    fill_with_noise(store);
    const std::vector<float> with = without(other), zeros = without(branch);
    std::vector<bool> rows;
    for (auto at = with.begin(), to = zeros.begin(); at != with.end(); at += c.width, to += c.width)
      rows.push_back(std::equal(at, at + c.width, to));
    return rows;
  };
  const std::vector<bool> attn = gone("*mlp.fc2.*", "*attn.o.*"), mlp = gone("*attn.o.*", "*mlp.fc2.*");
  int common = 0, apart = 0;
  for (size_t i = 0; i < media; ++i) {
    EXPECT_EQ(attn[i], attn[media + i]) << i;
    common += attn[i], apart += mlp[i] != mlp[media + i];
  }
  EXPECT_TRUE(common > 0 && common < media && apart > 0 && apart < media) << common << " " << apart;
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
