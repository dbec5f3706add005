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
