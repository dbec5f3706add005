#include "core/ops/cosine.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_cosine_cases(CaseList&);

namespace {

double length(const Ref& x, int64_t r, double eps) {
  double sum = 0;
  for (int64_t c = 0; c < x.cols(); ++c) sum += x.at(r, c) * x.at(r, c);
  return std::max(std::sqrt(sum), eps);
}

Ref normalized(const Ref& x, double eps) {
  Ref y = x;
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t c = 0; c < x.cols(); ++c) y.at(r, c) /= length(x, r, eps);
  return y;
}

Ref cosine(const Ref& a, const Ref& b, double eps) {
  Shape leading;
  for (int i = 0; i + 1 < a.shape.rank(); ++i) leading.push_back(a.shape[i]);
  Ref y(leading);
  for (int64_t r = 0; r < a.rows(); ++r) {
    for (int64_t c = 0; c < a.cols(); ++c) y[r] += a.at(r, c) * b.at(r, c);
    y[r] /= length(a, r, eps) * length(b, r, eps);
  }
  return y;
}

struct Dims {
  Shape shape;
  Size size = Size::kSmall;
};

}  // namespace

void add_cosine_cases(CaseList& list) {
  for (const Dims& d :
       {Dims{{1, 1}}, {{1, 2}}, {{7, 13}}, {{2, 3, 11}}, {{67, 1031}, Size::kLarge}, {{1024, 1024}, Size::kBench}})
    for (const bool floored : {false, true}) {
      const bool one = d.shape[-1] == 1;  // the result is a sign: no gradient to hold an error against
      // Lengths are near sqrt(C): about half of the rows are below the second eps.
      const float eps = floored ? std::sqrt(static_cast<float>(d.shape[-1])) : 1e-8f;
      const double tol = 2e-7 + sum_tolerance(d.shape[-1] / 8);  // three sums in eight lanes, two roots
      list.add(
          cat("normalize_rows/", floored ? "floored/" : "", d.shape),
          [=](Rand& r) {
            return OpCase{.in = {r.normal(d.shape)},
                          .run = [=](Inputs v) { return normalize_rows(v[0], eps); },
                          .ref = [=](RefInputs v) { return normalized(v[0], static_cast<double>(eps)); },
                          .grads = one ? std::vector<int>{} : std::vector{0},
                          .tol = tol,
                          .bf16_grad_stores = 3};  // y, which backward reads twice, and the result
          },
          d.size);
      list.add(
          cat("cosine_similarity/", floored ? "floored/" : "", d.shape),
          [=](Rand& r) {
            return OpCase{.in = {r.normal(d.shape), r.normal(d.shape)},
                          .run = [=](Inputs v) { return cosine_similarity(v[0], v[1], eps); },
                          .ref = [=](RefInputs v) { return cosine(v[0], v[1], static_cast<double>(eps)); },
                          .grads = one ? std::vector<int>{} : std::vector{0, 1},
                          // Errors are of the size of |a| |b| = 1 where the largest result may be 1 / sqrt(C).
                          .tol = tol * std::sqrt(static_cast<double>(d.shape[-1]))};
          },
          d.size);
    }
}

}  // namespace tpo::optest
