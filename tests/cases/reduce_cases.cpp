#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_reduce_cases(CaseList&);

namespace {

Ref pool(const Ref& x, int64_t group) {
  Ref y({x.rows() / group, x.cols()});
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t c = 0; c < x.cols(); ++c) y.at(r / group, c) += x.at(r, c) / static_cast<double>(group);
  return y;
}

Ref argmax(const Ref& x) {
  Ref y({x.rows()});
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t c = 1; c < x.cols(); ++c)
      if (x.at(r, c) > x.at(r, static_cast<int64_t>(y[r]))) y[r] = static_cast<double>(c);
  return y;
}

struct Sum {
  Shape shape;
  Size size = Size::kSmall;
};

struct Pool {
  int64_t out, group, cols;
  Size size = Size::kSmall;
};

// Sums and means over the rows and over the last dim.
void add_means(CaseList& list, const Sum& s) {
  const int64_t cols = s.shape[-1], rows = s.shape.rank() == 1 ? 1 : cols == 0 ? s.shape[0] : s.shape.numel() / cols;
  struct Op {
    const char* name;
    Tensor (*op)(const Tensor&);
    bool over_rows, mean;
  };
  for (const Op& op : {Op{"sum_rows", sum_rows, true, false},
                       {"mean_rows", mean_rows, true, true},
                       {"sum_last", sum_last, false, false},
                       {"mean_last", mean_last, false, true}}) {
    const int64_t count = op.over_rows ? rows : cols;
    if (op.mean && count == 0) continue;
    Shape out;
    for (int i = 0; i + 1 < s.shape.rank(); ++i) out.push_back(s.shape[i]);
    if (op.over_rows || s.shape.rank() == 1) out = Shape{op.over_rows ? cols : 1};
    list.add(
        cat(op.name, "/", s.shape),
        [=](Rand& r) {
          return OpCase{.in = {r.uniform(s.shape, 0, 1)},  // one sign: the sum is of the size of its terms
                        .run = [=](Inputs v) { return op.op(v[0]); },
                        .ref =
                            [=](RefInputs v) {
                              Ref y(out);
                              for (int64_t i = 0; i < rows * cols; ++i)
                                y[op.over_rows ? i % cols : i / cols] += v[0][i];
                              for (double& e : y.v) e /= op.mean ? static_cast<double>(count) : 1;
                              return y;
                            },
                        .grads = {0},
                        .tol = sum_tolerance(count)};
        },
        s.size);
  }
}

}  // namespace

void add_reduce_cases(CaseList& list) {
  // 300007 elements are more than the 128 chunks of 1024 of the fixed order.
  for (const Sum& s :
       {Sum{{1}}, {{0}}, {{7, 13}}, {{300007}, Size::kLarge}, {{67, 1031}, Size::kLarge}, {{1024, 1024}, Size::kBench}})
    list.add(
        cat("sum_all/", s.shape),
        [=](Rand& r) {
          return OpCase{.in = {r.uniform(s.shape, 0, 1)},  // one sign: the sum is of the size of its terms
                        .run = [](Inputs v) { return sum_all(v[0]); },
                        .ref =
                            [](RefInputs v) {
                              Ref y({1});
                              for (double e : v[0].v) y[0] += e;
                              return y;
                            },
                        .grads = {0},
                        .tol = sum_tolerance(64),
                        .bf16_stores = 0};  // 64 additions a lane at most before double takes over
        },
        s.size);
  for (const Pool p : {Pool{1, 1, 1}, {3, 5, 7}, {17, 4, 2500, Size::kLarge}, {256, 16, 1024, Size::kBench}})
    list.add(
        cat("mean_pool_rows/", p.out, "x", p.group, "x", p.cols),
        [=](Rand& r) {
          return OpCase{.in = {r.normal({p.out * p.group, p.cols})},
                        .run = [=](Inputs v) { return mean_pool_rows(v[0], p.group); },
                        .ref = [=](RefInputs v) { return pool(v[0], p.group); },
                        .grads = {0},
                        .tol = sum_tolerance(p.group)};
        },
        p.size);
  for (const Sum& s : {Sum{{1, 1}},
                       {{5, 7}},
                       {{3, 2, 13}},
                       {{11}},
                       {{0, 3}},
                       {{3, 0}},
                       {{67, 1031}, Size::kLarge},
                       {{1024, 1024}, Size::kBench}})
    add_means(list, s);
  for (const Sum& s : {Sum{{1, 1}}, {{5, 7}}, {{67, 1031}, Size::kLarge}, {{64, 32000}, Size::kBench}})
    list.add(
        cat("argmax_rows/", s.shape),
        [=](Rand& r) {
          return OpCase{.in = {r.normal(s.shape)},
                        .run = [](Inputs v) { return argmax_rows(v[0]); },
                        .ref = [](RefInputs v) { return argmax(v[0]); }};
        },
        s.size);
}

}  // namespace tpo::optest
