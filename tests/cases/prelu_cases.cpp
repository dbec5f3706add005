#include "core/ops/pointwise.h"
#include "core/ops/prelu.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_prelu_cases(CaseList&);

namespace {

struct Dims {
  Shape shape;
  Size size = Size::kSmall;
};

struct Soft {
  float beta, threshold;
};

OpCase prelu_case(Rand& r, const Shape& shape, bool by_channel, bool chained) {
  const double factor = chained ? -1.5 : 1;
  return OpCase{.in = {off_zero(r.normal(shape, 2)), r.uniform({by_channel ? shape[-1] : 1}, -0.5f, 0.5f)},
                .run = [=](Inputs v) { return chained ? scale(prelu(v[0], v[1]), -1.5f) : prelu(v[0], v[1]); },
                .ref =
                    [=](RefInputs v) {
                      Ref y = v[0];
                      for (int64_t i = 0; i < y.shape.numel(); ++i)
                        y[i] *= factor * (y[i] > 0 ? 1 : v[1][by_channel ? i % y.cols() : 0]);
                      return y;
                    },
                .grads = {0, 1},
                .tol = 2e-7,  // one rounding, two if scaled
                .bf16_stores = chained ? 2 : 1};
}

OpCase softplus_case(Rand& r, const Shape& shape, const Soft& s) {
  const double beta = s.beta, threshold = s.threshold;
  return OpCase{.in = {r.normal(shape, 3)},
                .run = [=](Inputs v) { return softplus(v[0], s.beta, s.threshold); },
                .ref =
                    [=](RefInputs v) {
                      Ref y = v[0];
                      for (double& e : y.v) e = beta * e > threshold ? e : std::log1p(std::exp(beta * e)) / beta;
                      return y;
                    },
                .grads = {0},
                .tol = 4e-7};  // the exponential 2e-7, the series 1e-7, the division
}

}  // namespace

void add_prelu_cases(CaseList& list) {
  for (const Dims& d :
       {Dims{{1, 1}}, {{7, 13}}, {{2, 3, 5, 11}}, {{67, 1031}, Size::kLarge}, {{1024, 1024}, Size::kBench}}) {
    for (const bool by_channel : {false, true})
      for (const bool chained : {false, true})
        list.add(
            cat("prelu/", by_channel ? "channels/" : "", chained ? "in_place/" : "", d.shape),
            [=](Rand& r) { return prelu_case(r, d.shape, by_channel, chained); }, d.size);
    for (const Soft s : {Soft{1, 20}, Soft{2.5f, 3}})  // of the second a tenth lies behind the threshold
      list.add(
          cat("softplus/", s.beta, "/", d.shape), [=](Rand& r) { return softplus_case(r, d.shape, s); }, d.size);
  }
}

}  // namespace tpo::optest
