#include <algorithm>

#include "core/ops/pointwise.h"
#include "core/ops/softmax.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_softmax_cases(CaseList&);

namespace {

Ref reference(const Ref& x, double factor, bool log) {
  Ref y = x;
  for (int64_t r = 0; r < x.rows(); ++r) {
    double top = x.at(r, 0), sum = 0;
    for (int64_t c = 0; c < x.cols(); ++c) top = std::max(top, x.at(r, c));
    for (int64_t c = 0; c < x.cols(); ++c) sum += std::exp(x.at(r, c) - top);
    for (int64_t c = 0; c < x.cols(); ++c)
      y.at(r, c) = factor * (log ? x.at(r, c) - top - std::log(sum) : std::exp(x.at(r, c) - top) / sum);
  }
  return y;
}

struct Dims {
  Shape shape;
  float spread;
  Size size = Size::kSmall;
};

}  // namespace

void add_softmax_cases(CaseList& list) {
  for (const Dims& d : {Dims{{1, 1}, 1},
                        {{5, 7}, 1},
                        {{2, 3, 33}, 30},
                        {{67, 1031}, 3, Size::kLarge},
                        {{1024, 1024}, 1, Size::kBench}}) {
    for (const int form : {0, 1, 2, 3}) {
      const bool log = form >= 2, chained = form % 2 == 1;
      if (chained && d.size == Size::kBench) continue;
      const auto op = log ? log_softmax : softmax;
      list.add(
          cat(log ? "log_softmax/" : "softmax/", chained ? "in_place" : "", d.shape),
          [=](Rand& r) {
            return OpCase{.in = {r.normal(d.shape, d.spread)},
                          .run = [=](Inputs v) { return chained ? scale(op(v[0]), 3) : op(v[0]); },
                          .ref = [=](RefInputs v) { return reference(v[0], chained ? 3 : 1, log); },
                          .grads = {0},
                          // x - max is up to ten deviations; its rounding, 2^-24 of that, moves the exponential as much
                          .tol = 4e-7 + 6e-8 * 10 * static_cast<double>(d.spread),
                          .bf16_stores = chained ? 2 : 1,
                          // Backward reads y. Of the logarithm it takes e^y, which moves by |y| 2^-9 e^y < 2^-10.
                          .bf16_grad_stores = chained ? 3 : 2};
          },
          d.size);
    }
  }
}

}  // namespace tpo::optest
