#include "core/ops/dropout.h"
#include "core/ops/pointwise.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_dropout_cases(CaseList&);

namespace {

const RngKey kKey = RngKey(5).with("dropout");

// One counter at a time from core/rng.h, as the contract says.
// first -1: one word for the whole row.
Ref reference(const Ref& x, const Ref& row_ids, double p, double factor, int64_t first) {
  Ref y = x;
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t c = 0; c < x.cols(); ++c) {
      const auto id = static_cast<uint64_t>(static_cast<int64_t>(row_ids[r]));
      const int64_t at = first < 0 ? 0 : first + c;
      const auto word = philox(kKey, static_cast<uint64_t>(at / 4), id)[static_cast<size_t>(at % 4)];
      y.at(r, c) = static_cast<double>(uniform01(word)) >= p ? factor * x.at(r, c) / (1 - p) : 0;
    }
  return y;
}

struct Dims {
  int64_t rows, cols;
  float p;
  int64_t first = 0;  // column within the full tensor; -1: drop_path
  Size size = Size::kSmall;
};

}  // namespace

void add_dropout_cases(CaseList& list) {
  for (const Dims d : {Dims{1, 1, 0.5f},
                       {5, 7, 0.1f},
                       {3, 128, 0.9f},
                       {2, 9, 0},
                       {5, 7, 0.5f, 3},
                       {2, 131, 0.4f, 129},
                       {3, 1, 0.5f, 4},
                       {6, 5, 0.5f, -1},
                       {1, 1, 0.9f, -1},
                       {4, 3, 0, -1},
                       {67, 33, 0.3f, -1, Size::kLarge},
                       {67, 1031, 0.3f, 1021, Size::kLarge},
                       {1024, 1024, 0.1f, 0, Size::kBench}})
    for (const bool chained : {false, true}) {
      if (chained && d.size == Size::kBench) continue;
      list.add(
          cat(d.first < 0 ? "drop_path/" : "dropout/", chained ? "in_place" : "", d.rows, "x", d.cols, "_", d.p,
              d.first > 0 ? cat("_from", d.first) : ""),
          [=](Rand& r) {
            return OpCase{.in = {r.normal({d.rows, d.cols}), r.row_ids(d.rows)},
                          .run =
                              [=](Inputs v) {
                                const Tensor y = d.first < 0 ? drop_path(v[0], d.p, kKey, v[1])
                                                             : dropout(v[0], d.p, kKey, v[1], d.first);
                                return chained ? scale(y, 2) : y;
                              },
                          .ref =
                              [=](RefInputs v) {
                                return reference(v[0], v[1], static_cast<double>(d.p), chained ? 2 : 1, d.first);
                              },
                          .grads = {0},
                          .tol = 3e-7,
                          .bf16_stores = chained ? 2 : 1};  // 1 - p, its inverse and the product
          },
          d.size);
    }
}

}  // namespace tpo::optest
