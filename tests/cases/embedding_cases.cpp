#include "core/ops/embedding.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_embedding_cases(CaseList&);

namespace {

Ref gather(const Ref& table, const Ref& ids) {
  Ref y({ids.shape[0], table.cols()});
  for (int64_t n = 0; n < ids.shape[0]; ++n)
    for (int64_t c = 0; c < y.cols(); ++c) y.at(n, c) = table.at(static_cast<int64_t>(ids[n]), c);
  return y;
}

struct Dims {
  int64_t rows, cols, n;
  Size size = Size::kSmall;
};

}  // namespace

void add_embedding_cases(CaseList& list) {
  // Copies: the forward is exact.
  for (const Dims d :
       {Dims{1, 1, 1}, {7, 5, 13}, {3, 4, 0}, {101, 96, 300, Size::kLarge}, {512, 256, 2048, Size::kBench}}) {
    const std::string dims = cat(d.rows, "x", d.cols, "_", d.n);
    list.add(
        "embedding/" + dims,
        [=](Rand& r) {
          return OpCase{.in = {r.normal({d.rows, d.cols}), r.integers(d.n, 0, d.rows)},
                        .run = [](Inputs v) { return embedding(v[0], v[1]); },
                        .ref = [](RefInputs v) { return gather(v[0], v[1]); },
                        .grads = {0}};
        },
        d.size);
    list.add(
        "embedding_part/" + dims,
        [=](Rand& r) {
          return OpCase{.in = {r.normal({d.rows, d.cols}), r.integers(d.n, 0, 2 * d.rows + 3)},
                        .run = [=](Inputs v) { return embedding_part(v[0], v[1], 2, 2 * d.rows + 3); },
                        .ref =
                            [=](RefInputs v) {
                              Ref whole({2 * d.rows + 3, d.cols});
                              std::copy(v[0].v.begin(), v[0].v.end(), whole.v.begin() + 2 * d.cols);
                              return gather(whole, v[1]);
                            },
                        .grads = {0}};
        },
        d.size);
    list.add(
        "gather_rows/" + dims,
        [=](Rand& r) {
          return OpCase{.in = {r.normal({d.rows, d.cols}), r.integers(d.n, 0, d.rows)},
                        .run = [](Inputs v) { return gather_rows(v[0], v[1]); },
                        .ref = [](RefInputs v) { return gather(v[0], v[1]); },
                        .grads = {0}};
        },
        d.size);
    list.add(
        "broadcast_rows/" + dims,
        [=](Rand& r) {
          return OpCase{.in = {d.n % 2 ? r.normal({1, d.cols}) : r.normal({d.cols})},
                        .run = [=](Inputs v) { return broadcast_rows(v[0], d.n); },
                        .ref =
                            [=](RefInputs v) {
                              Ref y({d.n, d.cols});
                              for (int64_t n = 0; n < d.n; ++n)
                                for (int64_t c = 0; c < d.cols; ++c) y.at(n, c) = v[0][c];
                              return y;
                            },
                        .grads = {0}};
        },
        d.size);
  }
  for (const Dims d :
       {Dims{1, 1, 1}, {13, 5, 7}, {4, 3, 0}, {300, 96, 101, Size::kLarge}, {2048, 256, 1024, Size::kBench}}) {
    list.add(
        cat("overwrite_rows/", d.rows, "x", d.cols, "_", d.n),
        [=](Rand& r) {
          return OpCase{.in = {r.normal({d.rows, d.cols}), r.distinct(d.n, d.rows), r.normal({d.n, d.cols})},
                        .run = [](Inputs v) { return overwrite_rows(v[0], v[1], v[2]); },
                        .ref =
                            [](RefInputs v) {
                              Ref y = v[0];
                              for (int64_t k = 0; k < v[1].shape[0]; ++k)
                                for (int64_t c = 0; c < y.cols(); ++c)
                                  y.at(static_cast<int64_t>(v[1][k]), c) = v[2].at(k, c);
                              return y;
                            },
                        .grads = {0, 2}};
        },
        d.size);
  }
}

}  // namespace tpo::optest
