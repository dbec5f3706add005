#include <algorithm>
#include <numeric>

#include "core/ops/embedding.h"
#include "core/ops/index.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_index_cases(CaseList&);

namespace {

struct Dims {
  int64_t rows, cols, picks;
  Size size = Size::kSmall;
};

Tensor picks(Rand& r, const Dims& d) { return r.integers(d.rows * d.picks, 0, d.cols).view({d.rows, d.picks}); }

// Copies: exact in both storages.
OpCase gather_case(Rand& r, const Dims& d) {
  return {.in = {r.normal({d.rows, d.cols}), picks(r, d)},
          .run = [](Inputs v) { return gather_last(v[0], v[1]); },
          .ref =
              [](RefInputs v) {
                Ref y(v[1].shape);
                for (int64_t i = 0; i < y.rows(); ++i)
                  for (int64_t j = 0; j < y.cols(); ++j) y.at(i, j) = v[0].at(i, static_cast<int64_t>(v[1].at(i, j)));
                return y;
              },
          .grads = {0},
          .bf16_stores = 0};
}

OpCase scatter_case(Rand& r, const Dims& d) {
  return {.in = {r.normal({d.rows, d.picks}), picks(r, d)},
          .run = [=](Inputs v) { return scatter_add_last(v[0], v[1], d.cols); },
          .ref =
              [=](RefInputs v) {
                Ref y({d.rows, d.cols});
                for (int64_t i = 0; i < d.rows; ++i)
                  for (int64_t j = 0; j < d.picks; ++j) y.at(i, static_cast<int64_t>(v[1].at(i, j))) += v[0].at(i, j);
                return y;
              },
          .grads = {0},
          .tol = sum_tolerance(d.picks)};
}

OpCase scatter_rows_case(Rand& r, const Dims& d) {
  return {.in = {r.normal({d.rows, d.cols}), r.integers(d.rows, 0, d.picks)},
          .run = [=](Inputs v) { return scatter_add_rows(v[0], v[1], d.picks); },
          .ref =
              [=](RefInputs v) {
                Ref y({d.picks, d.cols});
                for (int64_t n = 0; n < d.rows; ++n)
                  for (int64_t c = 0; c < d.cols; ++c) y.at(static_cast<int64_t>(v[1][n]), c) += v[0].at(n, c);
                return y;
              },
          .grads = {0},
          .tol = sum_tolerance(d.rows)};
}

// Columns of the `picks` largest of row r, best first.
std::vector<int64_t> best_columns(const Ref& x, int64_t r, int64_t picks) {
  std::vector<int64_t> order(static_cast<size_t>(x.cols()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return x.at(r, a) > x.at(r, b); });
  order.resize(static_cast<size_t>(picks));
  return order;
}

Ref best(const Ref& x, int64_t picks, bool columns) {
  Ref y({x.rows(), picks});
  for (int64_t r = 0; r < x.rows(); ++r) {
    int64_t j = 0;
    for (int64_t c : best_columns(x, r, picks)) y.at(r, j++) = columns ? static_cast<double>(c) : x.at(r, c);
  }
  return y;
}

// Values of a row differ by 1/64 at least, which finite differences do not bridge, in bf16 as long as cols <= 256.
Tensor distinct_rows(Rand& r, const Dims& d) {
  std::vector<float> v;
  for (int64_t i = 0; i < d.rows; ++i) {
    const Tensor order = r.distinct(d.cols, d.cols);
    for (int64_t c = 0; c < d.cols; ++c) {
      const int32_t place = order.device() == Device::kCpu ? order.data<int32_t>()[c] : 0;
      v.push_back(static_cast<float>(2 * place - d.cols) / 128);
    }
  }
  return Tensor::from(v, {d.rows, d.cols});
}

void add_top_k(CaseList& list, const Dims& d) {
  const std::string dims = cat(d.rows, "x", d.cols, "_", d.picks);
  list.add(
      "top_k/" + dims,
      [=](Rand& r) {
        return OpCase{.in = {d.size == Size::kBench ? r.normal({d.rows, d.cols}) : distinct_rows(r, d)},
                      .run = [=](Inputs v) { return top_k(v[0], d.picks).values; },
                      .ref = [=](RefInputs v) { return best(v[0], d.picks, false); },
                      .grads = {0},
                      .bf16_stores = 0};
      },
      d.size, d.cols <= 256);
  list.add(
      "top_k_indices/" + dims,
      [=](Rand& r) {  // few values, so that most of them are ties
        std::vector<float> v(static_cast<size_t>(d.rows * d.cols));
        for (float& e : v) e = static_cast<float>(r.below(9)) - 4;
        return OpCase{.in = {Tensor::from(v, {d.rows, d.cols})},
                      .run = [=](Inputs in) { return top_k(in[0], d.picks).indices; },
                      .ref = [=](RefInputs in) { return best(in[0], d.picks, true); }};
      },
      d.size);
}

}  // namespace

void add_index_cases(CaseList& list) {
  for (const Dims& d :
       {Dims{1, 1, 1}, {5, 7, 13}, {7, 13, 3}, {67, 1031, 300, Size::kLarge}, {512, 1024, 256, Size::kBench}}) {
    const std::string dims = cat(d.rows, "x", d.cols, "_", d.picks);
    list.add(
        "gather_last/" + dims, [=](Rand& r) { return gather_case(r, d); }, d.size);
    list.add(
        "scatter_add_last/" + dims, [=](Rand& r) { return scatter_case(r, d); }, d.size);
    list.add(
        "scatter_add_rows/" + dims, [=](Rand& r) { return scatter_rows_case(r, d); }, d.size);
  }
  for (const Dims& d : {Dims{1, 1, 1},
                        {5, 7, 3},
                        {3, 251, 251},
                        {3, 251, 2},
                        {7, 1031, 300, Size::kLarge},
                        {900, 4096, 300, Size::kBench}})
    add_top_k(list, d);
  for (const Dims& d : {Dims{1, 1, 0}, {7, 5, 0}, {1031, 67, 0, Size::kLarge}, {4096, 256, 0, Size::kBench}})
    list.add(
        cat("one_hot/", d.rows, "x", d.cols),
        [=](Rand& r) {
          return OpCase{.in = {r.integers(d.rows, 0, d.cols)},
                        .run = [=](Inputs v) { return one_hot(v[0], d.cols); },
                        .ref =
                            [=](RefInputs v) {
                              Ref y({d.rows, d.cols});
                              for (int64_t n = 0; n < d.rows; ++n) y.at(n, static_cast<int64_t>(v[0][n])) = 1;
                              return y;
                            }};
        },
        d.size, false);
}

}  // namespace tpo::optest
