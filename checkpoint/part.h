#pragma once
// Part: a run of elements of a rectangle of a tensor. What a rank holds of a tensor (a cut over the tensor axis, and a
// shard of that), and what a piece on disk holds.
// A tensor is seen as a matrix of `whole_of(full)`: rows are its first dim, columns all others together.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/shape.h"

namespace tpo {

// Elements [begin, begin + count) of the rectangle, counted row-major within it.
struct Part {
  Rect rect;
  int64_t begin = 0;
  int64_t count = 0;
  auto operator<=>(const Part&) const = default;
};

struct Element {
  int64_t row = 0, col = 0;
  friend std::ostream& operator<<(std::ostream& out, const Element& e) {
    return out << '(' << e.row << ", " << e.col << ')';
  }
};

// True if the rectangle lies in the tensor and the run in the rectangle; for any numbers, without overflow.
bool lies_in(const Part& part, const Shape& full);
// The same elements; a rectangle of full width becomes a run of the whole tensor, so that row cuts are ordinary runs.
// Requires: lies_in.
Part normalised(const Part& part, const Shape& full);
// "elements 3 to 9", and where the rectangle is not the whole "... of rows 0 to 4, columns 2 to 5".
std::string text_of(const Part& part, const Shape& full);

// The part as at most three rectangles: the end of its first row, whole rows, the start of its last row.
std::vector<Rect> rects_of(const Part& part);
bool overlap(const Part& a, const Part& b);
// Positions in `a` of the first element that b has too, and one behind the last; {0, 0} if there is none.
std::pair<int64_t, int64_t> common_range(const Part& a, const Part& b);
// `from` has the elements of a, `to` those of b, each of `size` bytes: copies what both have, one memcpy per row, and
// one in all if the columns are the same.
void copy_common(const Part& a, const void* from, const Part& b, void* to, int64_t size);

// An element that two of the rectangles have; O(n log n).
std::optional<Element> first_shared(std::vector<Rect> rects);
// The first element, row-major, that none of the rectangles has; O(n^2), for messages.
std::optional<Element> first_missing(std::span<const Rect> rects, const Shape& full);

}  // namespace tpo
