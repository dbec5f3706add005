// Cross-entropy over a vocabulary in parts against the fused op on one rank.
#include <gtest/gtest.h>

#include <algorithm>

#include "parallel/comm/threads.h"
#include "parallel/tensor/cut.h"
#include "parallel/tensor/vocab.h"

namespace tpo {
namespace {

enum class Labels { kAnywhere, kNone, kFirstPart };

struct Case {
  int64_t rows, width, vocabulary, rank;  // of the low-rank term; 0: none
  Labels labels = Labels::kAnywhere;
};

std::vector<float> noise(std::string_view name, int64_t n, float factor) {
  std::vector<float> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) v[i] = factor * (2 * uniform01(philox(RngKey(3).with(name), i)[0]) - 1);
  return v;
}

Tensor labels_of(const Case& c) {
  std::vector<int32_t> v;
  const int64_t limit = c.labels == Labels::kFirstPart ? c.vocabulary / 4 : c.vocabulary;
  for (int64_t i = 0; i < c.rows; ++i) {
    const auto at = static_cast<uint64_t>(i);
    const bool ignored = c.labels == Labels::kNone || uniform_below(RngKey(4), at, 3) == 0;
    v.push_back(ignored ? kIgnoreTarget
                        : static_cast<int32_t>(uniform_below(RngKey(5), at, static_cast<uint64_t>(limit))));
  }
  return Tensor::from(v, {c.rows});
}

struct Outcome {
  float loss;
  std::vector<float> dx, dw, dxa, db;
};

// Loss and gradients with rows `part` of the vocabulary's tables; null `tp`: the fused op.
Outcome run_loss(const Case& c, const Range& part, ProcessGroup* tp) {
  const auto rows = [&](std::string_view name, int64_t cols) {
    const auto all = noise(name, c.vocabulary * cols, 0.6f);
    return Tensor::from(
        std::span(all).subspan(static_cast<size_t>(part.begin * cols), static_cast<size_t>(part.size() * cols)),
        {part.size(), cols});
  };
  Tape tape;
  const TapeScope scope(tape);
  const Tensor x = tape.watch(Tensor::from(noise("x", c.rows * c.width, 2), {c.rows, c.width}));
  const Tensor w = tape.watch(rows("w", c.width));
  Tensor xa, b;
  if (c.rank > 0) {
    xa = tape.watch(Tensor::from(noise("xa", c.rows * c.rank, 2), {c.rows, c.rank}));
    b = tape.watch(rows("b", c.rank));
  }
  const Tensor targets = labels_of(c);
  const Tensor loss = tp == nullptr
                          ? vocab_cross_entropy(x, w, targets, 0.25f, xa, b)
                          : vocab_cross_entropy_part(x, w, targets, 0.25f, vocab_part(c.vocabulary, *tp), xa, b);
  tape.backward(loss);
  // Shares of dx and dxa become sums.
  const auto gradient = [&](const Tensor& t, bool share) {
    if (!t.defined()) return std::vector<float>();
    const Tensor g = tape.grad(t);
    if (share && tp != nullptr) tp->all_reduce(g, ReduceOp::kSum, "share").wait_host();
    return g.to_vector<float>();
  };
  return {loss.item(), gradient(x, true), gradient(w, false), gradient(xa, true), gradient(b, false)};
}

// Logits are sums of up to `width` products below 1.2 in fp32, wrong by up to width * 1.2 * 6e-8 = 4e-7 at width 5,
// which is the relative error of an exponential; the combination of parts adds three roundings, the sum of dx over
// parts one a part. A factor 4 for the worst of many elements.
constexpr double kTolerance = 4e-6;

void expect_near(const std::vector<float>& got, std::span<const float> want, double scale, const char* what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], kTolerance * scale) << what << ' ' << i;
}

void parts_equal_the_whole(const Case& c, ProcessGroup& tp) {
  const Range part = balanced_part(c.vocabulary, tp.rank(), tp.size());
  const Outcome whole = run_loss(c, {0, c.vocabulary}, nullptr), mine = run_loss(c, part, &tp);
  const auto slice = [&](const std::vector<float>& all, int64_t cols) {
    return std::span(all).subspan(static_cast<size_t>(part.begin * cols), static_cast<size_t>(part.size() * cols));
  };
  EXPECT_NEAR(mine.loss, whole.loss, kTolerance * std::abs(static_cast<double>(whole.loss)));
  const auto all = tp.all_gather_bytes(std::as_bytes(std::span(&mine.loss, 1)));
  for (const auto& other : all) EXPECT_EQ(other, all[0]) << "the loss has other bits on another rank";
  // A gradient is a sum of terms of at most 0.25 * 0.6 (dx) and 0.25 * 2 a row (dw).
  const double rows = std::sqrt(static_cast<double>(c.rows));
  expect_near(mine.dx, whole.dx, 0.3, "dx");
  expect_near(mine.dxa, whole.dxa, 0.3, "dxa");
  expect_near(mine.dw, slice(whole.dw, c.width), 0.5 * rows, "dw");
  expect_near(mine.db, slice(whole.db, c.rank), 0.5 * rows, "db");
}

TEST(VocabParts, loss_and_gradients_are_those_of_the_whole) {
  const Case cases[] = {{1, 1, 4, 0},
                        {7, 5, 37, 0},
                        {13, 4, 11, 2},
                        {6, 3, 9, 2, Labels::kNone},
                        {9, 3, 41, 2, Labels::kFirstPart},  // other parts have no label at all
                        {290, 2, 66013, 1}};                // several chunks on up to four ranks
  for (const int n : {1, 2, 3, 4})
    for (const Case& c : cases) run_ranks(n, [&](ProcessGroup& tp) { parts_equal_the_whole(c, tp); });
}

TEST(VocabParts, ranks_exchange_as_often_whatever_the_labels_are) {
  run_ranks(3, [](ProcessGroup& tp) {
    std::vector<uint64_t> issued;
    for (const Labels labels : {Labels::kAnywhere, Labels::kNone, Labels::kFirstPart}) {
      const uint64_t before = tp.collectives_issued();
      const NoGradScope no_grad;
      const Case c{290, 2, 50021, 0, labels};
      const Range part = balanced_part(c.vocabulary, tp.rank(), tp.size());
      vocab_cross_entropy_part(Tensor::zeros({c.rows, c.width}), Tensor::zeros({part.size(), c.width}), labels_of(c), 1,
                               vocab_part(c.vocabulary, tp));
      issued.push_back(tp.collectives_issued() - before);
    }
    EXPECT_EQ(issued, (std::vector<uint64_t>{3, 3, 3}));  // 290 rows in chunks of 128
  });
}

TEST(VocabParts, rows_that_are_no_part_and_labels_beyond_the_vocabulary_are_refused) {
  const auto alone = make_single();
  const Tensor x = Tensor::zeros({2, 3}), w = Tensor::zeros({4, 3});
  const Tensor labels = Tensor::from(std::vector<int32_t>{0, 5}, {2});
  EXPECT_THROW(vocab_cross_entropy_part(x, w, labels, 1, vocab_part(3, *alone)), ShapeError);
  EXPECT_THROW(vocab_cross_entropy_part(x, w, labels, 1, vocab_part(4, *alone)), DataError);
}

}  // namespace
}  // namespace tpo
