#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_layout_cases(CaseList&);

namespace {

// Rows in the order (image, time, row, column), inside a patch (time, row, column, channel).
Ref cut(const Ref& x, int64_t p, int64_t t) {
  const int64_t I = x.shape[0], T = x.shape[1], H = x.shape[2], W = x.shape[3], C = x.shape[4];
  Ref y({I * (T / t) * (H / p) * (W / p), t * p * p * C});
  int64_t at = 0;
  for (int64_t i = 0; i < I; ++i)
    for (int64_t a = 0; a < T; a += t)
      for (int64_t b = 0; b + p <= H; b += p)
        for (int64_t d = 0; d + p <= W; d += p)
          for (int64_t e = 0; e < t; ++e)
            for (int64_t f = 0; f < p; ++f)
              for (int64_t g = 0; g < p; ++g)
                for (int64_t c = 0; c < C; ++c) y[at++] = x[(((i * T + a + e) * H + b + f) * W + d + g) * C + c];
  return y;
}

Ref flip(const Ref& x) {
  Ref y({x.cols(), x.rows()});
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t c = 0; c < x.cols(); ++c) y.at(c, r) = x.at(r, c);
  return y;
}

struct Rows {
  int64_t a, b, cols;
  Size size = Size::kSmall;
};

// Dims 1 and 2 of x seen as (A, B, C, D) exchanged.
Ref swapped(const Ref& x, int64_t A, int64_t B, int64_t C, int64_t D) {
  Ref y({A, C, B, D});
  int64_t at = 0;
  for (int64_t a = 0; a < A; ++a)
    for (int64_t c = 0; c < C; ++c)
      for (int64_t b = 0; b < B; ++b)
        for (int64_t d = 0; d < D; ++d) y[at++] = x[((a * B + b) * C + c) * D + d];
  return y;
}

struct Blocks {
  int64_t a, b, c, d;
  Size size = Size::kSmall;
};

void add_swaps(CaseList& list, const Blocks& s) {
  const Shape shape{s.a, s.b, s.c, s.d};
  list.add(
      cat("swap_middle/", shape),
      [=](Rand& r) {
        return OpCase{.in = {r.normal(shape)},
                      .run = [](Inputs v) { return swap_middle(v[0]); },
                      .ref = [=](RefInputs v) { return swapped(v[0], s.a, s.b, s.c, s.d); },
                      .grads = {0},
                      .bf16_stores = 0};
      },
      s.size);
  list.add(
      cat("transpose/batch_", shape),
      [=](Rand& r) {
        return OpCase{.in = {r.normal({s.a, s.b, s.c * s.d})},
                      .run = [](Inputs v) { return transpose(v[0]); },
                      .ref =
                          [=](RefInputs v) {
                            Ref y = swapped(v[0], s.a, s.b, s.c * s.d, 1);
                            y.shape = {s.a, s.c * s.d, s.b};
                            return y;
                          },
                      .grads = {0},
                      .bf16_stores = 0};
      },
      s.size);
}

// Columns of parts a (..., na) and b (..., nb) side by side, in the order b a b.
void add_columns(CaseList& list, const Rows& d) {
  const int64_t rows = d.cols, na = d.a, nb = d.b;
  const auto side_by_side = [=](const Ref& a, const Ref& b) {
    Ref y({rows, na + 2 * nb});
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < y.cols(); ++c)
        y.at(r, c) = c < nb ? b.at(r, c) : c < nb + na ? a.at(r, c - nb) : b.at(r, c - nb - na);
    return y;
  };
  list.add(
      cat("concat_last/", rows, "x", na, "+", nb),
      [=](Rand& r) {
        return OpCase{.in = {r.normal({rows, na}), r.normal({rows, nb})},
                      .run =
                          [](Inputs v) {
                            const Tensor b = scale(v[1], 1);  // its two gradients are added
                            return concat_last({b, v[0], b});
                          },
                      .ref = [=](RefInputs v) { return side_by_side(v[0], v[1]); },
                      .grads = {0, 1},
                      .bf16_stores = 0};
      },
      d.size);
  list.add(
      cat("split_last/", rows, "x", na, "+", nb),
      [=](Rand& r) {
        return OpCase{.in = {r.normal({rows, na + nb + 3})},
                      .run =
                          [=](Inputs v) {  // nobody uses the part of 3 columns
                            const auto parts = split_last(v[0], {na, 3, nb});
                            return concat_last({parts[2], parts[0], parts[2]});
                          },
                      .ref =
                          [=](RefInputs v) {
                            Ref a({rows, na}), b({rows, nb});
                            for (int64_t r = 0; r < rows; ++r) {
                              for (int64_t c = 0; c < na; ++c) a.at(r, c) = v[0].at(r, c);
                              for (int64_t c = 0; c < nb; ++c) b.at(r, c) = v[0].at(r, na + 3 + c);
                            }
                            return side_by_side(a, b);
                          },
                      .grads = {0},
                      .bf16_stores = 0};
      },
      d.size);
}

struct Images {
  Shape shape;
  int64_t patch, tubelet;
  Size size = Size::kSmall;
};

struct Grid {
  int64_t images, h, w, m, cols;
  Size size = Size::kSmall;
};

void add_rows(CaseList& list, const Rows& d) {
  const std::string dims = cat(d.a, "+", d.b, "x", d.cols);
  list.add(
      "concat_rows/" + dims,
      [=](Rand& r) {
        return OpCase{.in = {r.normal({d.a, d.cols}), r.normal({d.b, d.cols})},
                      .run =
                          [](Inputs v) {
                            return concat_rows({v[0], v[1]});
                          },
                      .ref =
                          [](RefInputs v) {
                            Ref y({v[0].rows() + v[1].rows(), v[0].cols()});
                            y.v.clear();
                            for (int i : {0, 1}) y.v.insert(y.v.end(), v[i].v.begin(), v[i].v.end());
                            return y;
                          },
                      .grads = {0, 1}};
      },
      d.size);
  list.add(
      "slice_rows/" + dims,
      [=](Rand& r) {
        return OpCase{.in = {r.normal({d.a + d.b, d.cols})},
                      .run =
                          [=](Inputs v) {  // two overlapping cuts of one value: the second gradient is added
                            const Tensor x = scale(v[0], 1);
                            return concat_rows({slice_rows(x, d.a - 1, d.a + d.b), slice_rows(x, 0, d.a)});
                          },
                      .ref =
                          [=](RefInputs v) {
                            Ref y({d.b + 1 + d.a, d.cols});
                            const auto row = [&](int64_t i) { return v[0].v.begin() + i * d.cols; };
                            y.v.assign(row(d.a - 1), row(d.a + d.b));
                            y.v.insert(y.v.end(), row(0), row(d.a));
                            return y;
                          },
                      .grads = {0}};
      },
      d.size);
  list.add(
      "transpose/" + dims,
      [=](Rand& r) {
        return OpCase{.in = {r.normal({d.a + d.b, d.cols})},
                      .run = [](Inputs v) { return transpose(v[0]); },
                      .ref = [](RefInputs v) { return flip(v[0]); },
                      .grads = {0}};
      },
      d.size);
}

}  // namespace

// Copies: the forward is exact.
void add_layout_cases(CaseList& list) {
  for (const Rows& d :
       {Rows{1, 1, 1}, {3, 5, 7}, {8, 9, 16}, {131, 72, 97, Size::kLarge}, {1024, 1024, 1024, Size::kBench}})
    add_rows(list, d), add_columns(list, d);
  for (const Blocks& d :
       {Blocks{1, 1, 1, 1}, {3, 5, 7, 2}, {2, 17, 9, 1}, {4, 67, 12, 64, Size::kLarge}, {8, 256, 16, 64, Size::kBench}})
    add_swaps(list, d);
  for (const Images& d : {Images{{1, 1, 1, 1, 3}, 1, 1},
                          {{2, 1, 4, 6, 3}, 2, 1},
                          {{2, 4, 6, 4, 3}, 2, 2},
                          {{2, 2, 7, 5, 3}, 3, 2},
                          {{3, 2, 45, 30, 5}, 15, 1, Size::kLarge},
                          {{8, 1, 224, 224, 3}, 16, 1, Size::kBench}})
    list.add(
        cat("patchify/", d.shape, "_", d.patch, "_", d.tubelet),
        [=](Rand& r) {
          return OpCase{.in = {r.normal(d.shape)},
                        .run = [=](Inputs v) { return patchify(v[0], d.patch, d.tubelet); },
                        .ref = [=](RefInputs v) { return cut(v[0], d.patch, d.tubelet); },
                        .grads = {0}};
        },
        d.size);
  for (const Grid& d :
       {Grid{1, 1, 1, 1, 1}, {2, 4, 6, 2, 5}, {3, 12, 9, 3, 65, Size::kLarge}, {8, 14, 14, 2, 768, Size::kBench}})
    list.add(
        cat("merge_patches/", d.images, "x", d.h, "x", d.w, "x", d.cols, "_", d.m),
        [=](Rand& r) {
          return OpCase{.in = {r.normal({d.images * d.h * d.w, d.cols})},
                        .run = [=](Inputs v) { return merge_patches(v[0], d.h, d.w, d.m); },
                        .ref =
                            [=](RefInputs v) {
                              Ref grid = v[0];
                              grid.shape = {d.images, 1, d.h, d.w, d.cols};
                              return cut(grid, d.m, 1);
                            },
                        .grads = {0}};
        },
        d.size);
}

}  // namespace tpo::optest
