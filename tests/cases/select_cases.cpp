#include "core/ops/pointwise.h"
#include "core/ops/select.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_select_cases(CaseList&);

namespace {

Tensor mask(Rand& r, const Shape& s) {  // 2 counts as true
  std::vector<uint8_t> v(static_cast<size_t>(s.numel()));
  for (uint8_t& e : v) e = static_cast<uint8_t>(r.below(3));
  return Tensor::from(v, s);
}

struct Dims {
  Shape shape;
  Size size = Size::kSmall;
};

Ref chosen(const Ref& mask, const Ref& a, const Ref& b, double factor) {
  Ref y = b;
  for (size_t i = 0; i < y.v.size(); ++i) y.v[i] = factor * (mask.v[i] != 0 ? a.v[i] : b.v[i]);
  return y;
}

}  // namespace

// Copies: exact in both storages. `chained` has a second op behind it, so that the gradient is masked in place.
void add_select_cases(CaseList& list) {
  for (const Dims& d : {Dims{{1}}, {{7, 13}}, {{2, 3, 11}}, {{67, 1031}, Size::kLarge}, {{1024, 1024}, Size::kBench}})
    for (const bool chained : {false, true}) {
      const double factor = chained ? -2 : 1;
      const std::string name = cat("/", chained ? "in_place" : "", d.shape);
      const auto last = [=](const Tensor& y) { return chained ? scale(y, -2) : y; };
      list.add(
          "where" + name,
          [=](Rand& r) {
            return OpCase{.in = {mask(r, d.shape), r.normal(d.shape), r.normal(d.shape)},
                          .run = [=](Inputs v) { return last(where(v[0], v[1], v[2])); },
                          .ref = [=](RefInputs v) { return chosen(v[0], v[1], v[2], factor); },
                          .grads = {1, 2},
                          .bf16_stores = 0};
          },
          d.size);
      list.add(
          "masked_fill" + name,
          [=](Rand& r) {
            return OpCase{.in = {r.normal(d.shape), mask(r, d.shape)},
                          .run = [=](Inputs v) { return last(masked_fill(v[0], v[1], -3)); },
                          .ref =
                              [=](RefInputs v) {
                                Ref fill(d.shape);
                                for (double& e : fill.v) e = -3;
                                return chosen(v[1], fill, v[0], factor);
                              },
                          .grads = {0},
                          .bf16_stores = 0};
          },
          d.size);
    }
}

}  // namespace tpo::optest
