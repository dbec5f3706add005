#include "core/ops/bmm.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_bmm_cases(CaseList&);

namespace {

struct Dims {
  int64_t batch, m, n, k;
  Size size = Size::kSmall;
};

Ref product(const Ref& a, const Ref& b, const Dims& d, BmmTrans t) {
  Ref y({d.batch, d.m, d.n});
  for (int64_t s = 0; s < d.batch; ++s)
    for (int64_t i = 0; i < d.m; ++i)
      for (int64_t p = 0; p < d.k; ++p)
        for (int64_t j = 0; j < d.n; ++j)
          y.at(s * d.m + i, j) +=
              (t.a ? a.at(s * d.k + p, i) : a.at(s * d.m + i, p)) * (t.b ? b.at(s * d.n + j, p) : b.at(s * d.k + p, j));
  return y;
}

}  // namespace

void add_bmm_cases(CaseList& list) {
  // 97 x 96 x 100 is beyond what runs in tiles; 37 x 33 x 40 fills and cuts them in every direction.
  for (const Dims& d : {Dims{1, 1, 1, 1},
                        {3, 7, 5, 13},
                        {2, 6, 16, 8},
                        {0, 2, 3, 4},
                        {2, 3, 4, 0},
                        {9, 37, 33, 40, Size::kLarge},
                        {2, 97, 96, 100, Size::kLarge},
                        {256, 64, 64, 32, Size::kBench},
                        {32, 7, 256, 64, Size::kBench},
                        {8, 256, 256, 256, Size::kBench}})
    for (const BmmTrans t : {BmmTrans{}, {true, false}, {false, true}, {true, true}}) {
      list.add(
          cat("bmm/", t.a ? "t" : "n", t.b ? "t" : "n", "_", d.batch, "x", d.m, "x", d.n, "x", d.k),
          [=](Rand& r) {
            return OpCase{.in = {r.normal(t.a ? Shape{d.batch, d.k, d.m} : Shape{d.batch, d.m, d.k}),
                                 r.normal(t.b ? Shape{d.batch, d.n, d.k} : Shape{d.batch, d.k, d.n})},
                          .run = [=](Inputs v) { return bmm(v[0], v[1], t); },
                          .ref = [=](RefInputs v) { return product(v[0], v[1], d, t); },
                          .grads = {0, 1},
                          .tol = sum_tolerance(d.k)};
          },
          d.size);
    }
}

}  // namespace tpo::optest
