#include "core/ops/rope.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_rope_cases(CaseList&);

namespace {

Ref reference(const Ref& x, const Ref& positions, int64_t heads, double theta) {
  Ref y = x;
  const int64_t dim = x.cols() / heads, half = dim / 2;
  for (int64_t n = 0; n < x.rows(); ++n)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = positions[n] * std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        const double a = x.at(n, h * dim + i), b = x.at(n, h * dim + i + half);
        y.at(n, h * dim + i) = a * std::cos(angle) - b * std::sin(angle);
        y.at(n, h * dim + i + half) = b * std::cos(angle) + a * std::sin(angle);
      }
  return y;
}

// Pairs (2i, 2i + 1); the first half of a head by x, the second by y.
Ref reference_2d(const Ref& x, const Ref& positions, int64_t heads, double theta) {
  Ref y = x;
  const int64_t dim = x.cols() / heads;
  for (int64_t n = 0; n < x.rows(); ++n)
    for (int64_t at = 0; at < x.cols(); at += 2) {
      const int64_t in_head = at % dim, axis = in_head < dim / 2 ? 0 : 1, even = in_head % (dim / 2);  // even = 2i
      const double power = std::pow(theta, -2.0 * static_cast<double>(even) / static_cast<double>(dim));
      const double angle = positions[2 * n + axis] * power, a = x.at(n, at), b = x.at(n, at + 1);
      y.at(n, at) = a * std::cos(angle) - b * std::sin(angle);
      y.at(n, at + 1) = b * std::cos(angle) + a * std::sin(angle);
    }
  return y;
}

// Columns and rows of a grid `across` wide, row by row.
Tensor grid(Rand& r, int64_t n, int64_t across) {
  std::vector<int32_t> at;
  for (int64_t i = 0; i < n; ++i)
    at.insert(at.end(), {static_cast<int32_t>(i % across), static_cast<int32_t>(i / across)});
  return r.of(at).view({n, 2});
}

struct Dims {
  int64_t n, heads, dim, last;  // positions in [0, last]
  Size size = Size::kSmall;
};

}  // namespace

void add_rope_cases(CaseList& list) {
  for (const Dims d : {Dims{1, 1, 2, 0},
                       {7, 3, 10, 100},
                       {5, 1, 64, 1000000},
                       {101, 4, 32, 300, Size::kLarge},
                       {2048, 8, 32, 300, Size::kBench}}) {
    list.add(
        cat("rope/", d.n, "x", d.heads, "x", d.dim, "_to_", d.last),
        [=](Rand& r) {
          return OpCase{.in = {r.normal({d.n, d.heads * d.dim}), r.integers(d.n, 0, d.last + 1)},
                        .run = [=](Inputs v) { return rope(v[0], v[1], d.heads, 10000.0f); },
                        .ref = [=](RefInputs v) { return reference(v[0], v[1], d.heads, 10000.0); },
                        .grads = {0},
                        .tol = 4e-7};  // sines good to 1e-7, two products and a sum
        },
        d.size);
  }
  for (const Dims d : {Dims{1, 1, 4, 1},
                       {15, 3, 12, 5},
                       {7, 1, 8, 1000000},
                       {97, 2, 68, 12, Size::kLarge},
                       {4096, 1, 256, 64, Size::kBench}}) {  // `last` is the width of the grid
    list.add(
        cat("rope_2d/", d.n, "x", d.heads, "x", d.dim, "_grid_", d.last),
        [=](Rand& r) {
          return OpCase{.in = {r.normal({d.n, d.heads * d.dim}), grid(r, d.n, d.last)},
                        .run = [=](Inputs v) { return rope_2d(v[0], v[1], d.heads, 10000.0f); },
                        .ref = [=](RefInputs v) { return reference_2d(v[0], v[1], d.heads, 10000.0); },
                        .grads = {0},
                        .tol = 4e-7};  // as above
        },
        d.size);
  }
}

}  // namespace tpo::optest
