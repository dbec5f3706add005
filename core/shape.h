#pragma once
// Shape: up to 6 extents of a dense row-major tensor. A value; never negative.
#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>

#include "core/error.h"

namespace tpo {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    check_shape(dims.size() <= kMaxRank, "[shape] rank ", dims.size(), " exceeds ", kMaxRank);
    for (int64_t d : dims) push_back(d);
  }

  int rank() const { return rank_; }
  // Extent of dimension i; negative i counts from the end. Throws ShapeError out of range.
  int64_t operator[](int i) const {
    const int j = i < 0 ? i + rank_ : i;
    check_shape(j >= 0 && j < rank_, "[shape] dim ", i, " of ", *this);
    return dims_[j];
  }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  void push_back(int64_t d) {
    check_shape(d >= 0, "[shape] negative extent ", d);
    check_shape(rank_ < kMaxRank, "[shape] rank exceeds ", kMaxRank);
    dims_[rank_++] = d;
  }
  // The same shape with the last extent replaced. Requires: rank >= 1.
  Shape with_last(int64_t d) const {
    check_shape(rank_ >= 1, "[shape] with_last on a scalar");
    Shape s = *this;
    s.dims_[rank_ - 1] = d;
    return s;
  }
  bool operator==(const Shape& o) const { return rank_ == o.rank_ && dims_ == o.dims_; }

  friend std::ostream& operator<<(std::ostream& out, const Shape& s) {
    out << '(';
    for (int i = 0; i < s.rank_; ++i) out << (i ? ", " : "") << s.dims_[i];
    return out << ')';
  }

 private:
  int rank_ = 0;
  std::array<int64_t, kMaxRank> dims_{};
};

// A rectangle of a tensor seen as a matrix: rows are its first dim, columns all others together (1 for a vector, and a
// scalar is 1 x 1). Elements of a rectangle are counted row-major within it.
struct Rect {
  int64_t row = 0, rows = 0, col = 0, cols = 0;
  int64_t numel() const { return rows * cols; }
  bool operator==(const Rect&) const = default;
  auto operator<=>(const Rect&) const = default;
};
// All of a tensor.
inline Rect whole_of(const Shape& s) {
  const int64_t rows = s.rank() > 0 ? s[0] : 1;
  return {0, rows, 0, rows > 0 ? s.numel() / rows : 0};
}

}  // namespace tpo
