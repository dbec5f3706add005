// Rules on scores, drawing, and the bookkeeping of beams.
#include "model/language/token_rules.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "model/language/beam_search.h"

namespace tpo {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
using Scores = std::vector<float>;

TEST(TokenRules, repetition_lowers_scores_of_both_signs_once) {
  Scores s{2, -2, 1, 0};
  restrain(s, std::vector<int32_t>{0, 1, 0, 3}, {.repetition_penalty = 2});
  EXPECT_EQ(s, (Scores{1, -4, 1, 0}));
}

TEST(TokenRules, an_ngram_does_not_come_twice) {
  const struct {
    std::vector<int32_t> history;
    int64_t n;
    std::vector<int> excluded;
  } cases[] = {{{}, 1, {}},
               {{}, 2, {}},
               {{3, 1}, 1, {1, 3}},
               {{1, 2, 1}, 2, {2}},
               {{1, 2, 3, 1, 2}, 3, {3}},
               {{1, 2, 3}, 3, {}},
               {{1, 2, 1, 3, 1}, 2, {2, 3}},
               {{1, 1}, 2, {1}}};
  for (const auto& c : cases) {
    Scores s(4, 0.0f), want(4, 0.0f);
    for (const int id : c.excluded) want[static_cast<size_t>(id)] = kNever;
    restrain(s, c.history, {.no_repeat_ngram = c.n});
    EXPECT_EQ(s, want) << c.history.size() << ' ' << c.n;
  }
}

TEST(TokenRules, narrowing_keeps_the_most_probable) {
  const Scores probabilities{0.1f, 0.4f, 0.05f, 0.4f, 0.05f};
  const struct {
    TokenRules rules;
    int64_t min_kept;
    std::vector<size_t> kept;
  } cases[] = {{{.top_k = 3}, 1, {0, 1, 3}},
               {{.top_k = 1}, 1, {1, 3}},  // ties stay
               {{.top_p = 0.85f}, 1, {0, 1, 3}},
               {{.top_p = 0.75f}, 1, {1, 3}},
               {{.top_p = 0.3f}, 1, {1}},
               {{.top_p = 0.3f}, 2, {1, 3}},
               {{.top_k = 4, .top_p = 0.93f}, 1, {0, 1, 2, 3}},
               {{}, 1, {0, 1, 2, 3, 4}}};
  for (size_t i = 0; i < std::size(cases); ++i) {
    Scores s;
    for (const float p : probabilities) s.push_back(std::log(p));
    narrow(s, cases[i].rules, cases[i].min_kept);
    std::vector<size_t> kept;
    for (size_t id = 0; id < s.size(); ++id)
      if (s[id] != kNever) kept.push_back(id);
    EXPECT_EQ(kept, cases[i].kept) << i;
  }
  Scores s{1, 2};
  narrow(s, {.temperature = 0.5f}, 1);
  EXPECT_EQ(s, (Scores{2, 4}));
}

TEST(TokenRules, drawing_has_the_probabilities_of_softmax) {
  const Scores scores{std::log(0.5f), std::log(0.3f), std::log(0.2f), kNever};
  constexpr int kDraws = 20000;
  std::vector<int> counts(4);
  for (int n = 0; n < kDraws; ++n) {
    const auto noise = [&](int beam, int32_t id) {
      return gumbel(RngKey(5), static_cast<uint64_t>(n), static_cast<uint64_t>(beam), static_cast<uint64_t>(id));
    };
    ++counts[static_cast<size_t>(best_candidates({0}, {scores}, 1, noise).at(0).id)];
  }
  for (size_t id = 0; id < 3; ++id)  // five standard deviations of a count; the draws are always the same
    EXPECT_NEAR(counts[id], kDraws * std::exp(scores[id]), 5 * std::sqrt(kDraws * 0.25)) << id;
  EXPECT_EQ(counts[3], 0);
}

TEST(BeamSearch, candidates_are_the_best_over_all_beams_in_a_fixed_order) {
  const auto best = best_candidates({-1, 0}, {{3, kNever, 1}, {2, 0, 2}}, 4);
  std::string order;
  for (const BeamCandidate& c : best) order += std::to_string(c.beam) + std::to_string(c.id) + ' ';
  EXPECT_EQ(order, "00 10 12 02 ");  // 2, 2, 2 and 0 before (1, 1)
  EXPECT_EQ(best_candidates({0}, {{kNever, 1}}, 5).size(), 1u);
}

TEST(BeamSearch, a_search_is_done_as_its_early_stopping_says) {
  // Two ended with -1 / 2 and -3 / 2 (length penalty 1, length 2).
  const struct {
    EarlyStopping early;
    float penalty;
    double best_sum;
    bool done;
  } cases[] = {{EarlyStopping::kYes, 1, 0, true},
               {EarlyStopping::kNo, 1, -6, true},
               {EarlyStopping::kNo, 1, -4, false},
               {EarlyStopping::kNever, 1, -6, false},
               {EarlyStopping::kNever, 1, -15, true}};
  for (const auto& c : cases) {
    EndedBeams<int> ended({2, c.penalty, c.early, 10});
    ended.add(1, -3, 2);
    EXPECT_FALSE(ended.done(-100, 3));
    ended.add(2, -1, 2);
    EXPECT_EQ(ended.done(c.best_sum, 3), c.done) << c.best_sum;
    ended.add(3, -2, 2);  // drives out the first
    ended.add(4, -9, 2);
    EXPECT_EQ(ended.best(), (std::pair{-0.5, 2}));
    EXPECT_EQ(ended.done(-3.1, 3), c.early == EarlyStopping::kYes || c.early == EarlyStopping::kNo);
  }
}

}  // namespace
}  // namespace tpo
