#include "parallel/program/habit.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

namespace tpo {
namespace {

constexpr size_t kLongest = 1024;  // bounds the work where one operation fills the history
constexpr uint64_t kNear = 16;     // operations of one microbatch repeat its sizes

uint64_t kind_of(uint64_t word) { return word >> 32; }
uint64_t size_of(uint64_t word) { return word & 0xffffffffu; }

// What each word is, with how many operations of its group ago the size was the same (0: not among the last ones).
std::vector<uint64_t> shapes_of(std::span<const uint64_t> words) {
  std::array<std::array<uint64_t, kNear>, 64> sizes{};  // of the last operations of each group, in a circle
  std::array<uint64_t, 64> counts{};
  std::vector<uint64_t> shapes;
  for (const uint64_t w : words) {
    auto& near = sizes[w >> 58];
    uint64_t& count = counts[w >> 58];
    uint64_t ago = 1;
    while (ago <= std::min(count, kNear) && near[(count - ago) % kNear] != size_of(w)) ++ago;
    shapes.push_back(kind_of(w) << 8 | (ago > std::min(count, kNear) ? 0 : ago));
    near[count++ % kNear] = size_of(w);
  }
  return shapes;
}

// Longest run that ends with the last word and ended at an earlier place too.
int32_t longest_run(std::span<const uint64_t> words) {
  const size_t n = words.size() - 1;
  size_t best = 0;
  for (size_t j = 0; j < n; ++j) {
    if (words[j] != words[n] || (best > 0 && (j < best || words[j - best] != words[n - best]))) continue;
    size_t run = 1;
    while (run <= j && run < kLongest && words[j - run] == words[n - run]) ++run;
    best = std::max(best, run);
    if (best == kLongest) break;
  }
  return static_cast<int32_t>(best);
}

}  // namespace

Fit fit_of(std::span<const uint64_t> words) {
  if (words.size() < 2) return {};
  Fit fit{1, longest_run(shapes_of(words)), longest_run(words), 0};
  uint64_t unit = 0;
  for (const uint64_t w : words.first(words.size() - 1))
    if (kind_of(w) == kind_of(words.back())) unit = std::gcd(unit, size_of(w));
  fit.multiple = unit > 0 && size_of(words.back()) % unit == 0 ? 1 : 0;
  return fit;
}

int compare_fits(const Fit& a, const Fit& b, bool same_kind) {
  if (a.known == 0 || b.known == 0) return 0;
  const auto order = [&](const Fit& f) {
    return same_kind ? std::array{f.multiple, f.follows, f.exactly} : std::array{f.follows, f.exactly, f.multiple};
  };
  const auto x = order(a), y = order(b);
  return x < y ? -1 : y < x ? 1 : 0;
}

}  // namespace tpo
