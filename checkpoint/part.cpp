#include "checkpoint/part.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <set>

namespace tpo {
namespace {

bool fits(int64_t begin, int64_t count, int64_t all) {
  return begin >= 0 && count >= 0 && begin <= all && count <= all - begin;
}

// Calls run(position in a, position in b, elements) for every stretch that is contiguous in both.
template <class F>
void for_each_run(const Part& a, const Part& b, F run) {
  const Rect &p = a.rect, &q = b.rect;
  if (a.count == 0 || b.count == 0) return;
  if (p.col == q.col && p.cols == q.cols) {  // both are runs of the same column strip
    const int64_t at = p.row * p.cols + a.begin, bt = q.row * q.cols + b.begin;
    const int64_t first = std::max(at, bt), last = std::min(at + a.count, bt + b.count);
    if (first < last) run(first - at, first - bt, last - first);
    return;
  }
  const int64_t col = std::max(p.col, q.col), end = std::min(p.col + p.cols, q.col + q.cols);
  const int64_t first_row = std::max(p.row + a.begin / p.cols, q.row + b.begin / q.cols);
  const int64_t last_row = std::min(p.row + (a.begin + a.count - 1) / p.cols, q.row + (b.begin + b.count - 1) / q.cols);
  for (int64_t row = first_row; row <= last_row; ++row) {
    // Column c of this row stands at position at + c of a and bt + c of b.
    const int64_t at = (row - p.row) * p.cols - p.col - a.begin, bt = (row - q.row) * q.cols - q.col - b.begin;
    const int64_t first = std::max({col, -at, -bt}), last = std::min({end, a.count - at, b.count - bt});
    if (first < last) run(at + first, bt + first, last - first);
  }
}

}  // namespace

bool lies_in(const Part& part, const Shape& full) {
  const Rect whole = whole_of(full);
  return fits(part.rect.row, part.rect.rows, whole.rows) && fits(part.rect.col, part.rect.cols, whole.cols) &&
         fits(part.begin, part.count, part.rect.numel());
}

Part normalised(const Part& part, const Shape& full) {
  const Rect whole = whole_of(full);
  if (part.count == 0) return {whole, 0, 0};
  if (part.rect.cols != whole.cols) return part;
  return {whole, part.rect.row * whole.cols + part.begin, part.count};
}

std::string text_of(const Part& part, const Shape& full) {
  const Rect& r = part.rect;
  std::string text = cat("elements ", part.begin, " to ", part.begin + part.count);
  if (r != whole_of(full)) {
    text += cat(" of rows ", r.row, " to ", r.row + r.rows, ", columns ", r.col, " to ", r.col + r.cols);
  }
  return text;
}

std::vector<Rect> rects_of(const Part& part) {
  std::vector<Rect> out;
  const Rect& r = part.rect;
  int64_t at = part.begin;
  const int64_t end = part.begin + part.count;
  while (at < end) {
    const int64_t row = at / r.cols, col = at % r.cols;
    const int64_t rows = col > 0 ? 1 : std::max<int64_t>(1, (end - at) / r.cols);
    const int64_t cols = std::min(r.cols - col, end - at);
    out.push_back({r.row + row, rows, r.col + col, cols});
    at += rows * cols;
  }
  return out;
}

bool overlap(const Part& a, const Part& b) {
  for (const Rect& p : rects_of(a)) {
    for (const Rect& q : rects_of(b)) {
      if (p.row < q.row + q.rows && q.row < p.row + p.rows && p.col < q.col + q.cols && q.col < p.col + p.cols)
        return true;
    }
  }
  return false;
}

std::pair<int64_t, int64_t> common_range(const Part& a, const Part& b) {
  std::pair<int64_t, int64_t> range{0, 0};
  for_each_run(a, b, [&](int64_t at, int64_t, int64_t n) {
    if (range.second == 0) range.first = at;
    range.second = at + n;
  });
  return range;
}

void copy_common(const Part& a, const void* from, const Part& b, void* to, int64_t size) {
  for_each_run(a, b, [&](int64_t at, int64_t bt, int64_t n) {
    std::memcpy(static_cast<std::byte*>(to) + bt * size, static_cast<const std::byte*>(from) + at * size,
                static_cast<size_t>(n * size));
  });
}

std::optional<Element> first_shared(std::vector<Rect> rects) {
  std::erase_if(rects, [](const Rect& r) { return r.numel() == 0; });
  std::sort(rects.begin(), rects.end());  // by row
  // Disjoint column ranges, each with the lowest rectangle so far; one that has ended stays until another needs its
  // columns.
  std::map<int64_t, const Rect*> open;
  for (const Rect& r : rects) {
    auto it = open.lower_bound(r.col);
    if (it != open.begin() && std::prev(it)->first + std::prev(it)->second->cols > r.col) --it;
    while (it != open.end() && it->first < r.col + r.cols) {
      if (it->second->row + it->second->rows > r.row) return Element{r.row, std::max(r.col, it->first)};
      it = open.erase(it);
    }
    open[r.col] = &r;
  }
  return std::nullopt;
}

std::optional<Element> first_missing(std::span<const Rect> rects, const Shape& full) {
  const Rect whole = whole_of(full);
  std::set<int64_t> rows{0};
  for (const Rect& r : rects) rows.insert({r.row, r.row + r.rows});
  rows.erase(rows.lower_bound(whole.rows), rows.end());
  for (int64_t row : rows) {  // the rows from here to the next of the set are alike
    std::vector<std::pair<int64_t, int64_t>> spans;
    for (const Rect& r : rects) {
      if (r.row <= row && row < r.row + r.rows) spans.emplace_back(r.col, r.col + r.cols);
    }
    std::sort(spans.begin(), spans.end());
    int64_t covered = 0;
    for (const auto& [begin, end] : spans) {
      if (begin > covered) break;
      covered = std::max(covered, end);
    }
    if (covered < whole.cols) return Element{row, covered};
  }
  return std::nullopt;
}

}  // namespace tpo
