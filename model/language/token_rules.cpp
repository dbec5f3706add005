#include "model/language/token_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace tpo {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

void keep_top_k(std::span<float> scores, int64_t k) {
  if (k >= static_cast<int64_t>(scores.size())) return;
  std::vector<float> sorted(scores.begin(), scores.end());
  const auto last = sorted.begin() + (k - 1);
  std::nth_element(sorted.begin(), last, sorted.end(), std::greater<>());
  for (float& s : scores)
    if (s < *last) s = kNever;
}

// From the least probable up, ids go while the sum of all that went stays within 1 - top_p.
void keep_top_p(std::span<float> scores, float top_p, int64_t min_kept) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto score = [&](int32_t id) { return scores[static_cast<size_t>(id)]; };
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return score(a) != score(b) ? score(a) < score(b) : a > b;  // of equal ones the smallest id stays longest
  });
  const double largest = score(order.back());
  double total = 0, gone = 0;
  for (const int32_t id : order) total += std::exp(score(id) - largest);
  for (size_t i = 0; i + static_cast<size_t>(min_kept) < order.size(); ++i) {
    gone += std::exp(score(order[i]) - largest) / total;
    if (gone > 1 - static_cast<double>(top_p)) break;
    scores[static_cast<size_t>(order[i])] = kNever;
  }
}

}  // namespace

void log_softmax(std::span<float> scores) {
  const double largest = *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (const float s : scores) total += std::exp(s - largest);
  const double log_total = largest + std::log(total);
  for (float& s : scores) s = static_cast<float>(s - log_total);
}

void restrain(std::span<float> scores, std::span<const int32_t> history, const TokenRules& rules) {
  if (rules.repetition_penalty != 1) {
    std::vector<int32_t> seen(history.begin(), history.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (const int32_t id : seen) {
      float& s = scores[static_cast<size_t>(id)];
      s = s < 0 ? s * rules.repetition_penalty : s / rules.repetition_penalty;
    }
  }
  const auto n = static_cast<size_t>(rules.no_repeat_ngram);
  if (n == 0 || history.size() + 1 < n) return;
  const auto tail = history.last(n - 1);
  for (size_t i = 0; i + n <= history.size(); ++i)
    if (std::equal(tail.begin(), tail.end(), history.begin() + static_cast<std::ptrdiff_t>(i)))
      scores[static_cast<size_t>(history[i + n - 1])] = kNever;
}

void narrow(std::span<float> scores, const TokenRules& rules, int64_t min_kept) {
  for (float& s : scores) s /= rules.temperature;
  if (rules.top_k > 0) keep_top_k(scores, std::max(rules.top_k, min_kept));
  if (rules.top_p < 1) keep_top_p(scores, rules.top_p, min_kept);
}

double gumbel(RngKey key, uint64_t step, uint64_t beam, uint64_t id) {
  const auto w = philox(key.with(step).with(beam), id);
  const uint64_t bits = (static_cast<uint64_t>(w[0]) << 32 | w[1]) >> 11;    // 53
  return -std::log(-std::log((static_cast<double>(bits) + 0.5) * 0x1p-53));  // of a uniform inside (0, 1)
}

}  // namespace tpo
