#include <algorithm>

#include "core/ops/box_loss.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_box_loss_cases(CaseList&);

namespace {

// Written from areas, unlike the kernel, which goes axis by axis.
double giou_term(const double* p, const double* t) {
  if (!(p[2] >= p[0] && p[3] >= p[1])) return 2;
  const auto area = [](double x1, double y1, double x2, double y2) {
    return std::max(0.0, x2 - x1) * std::max(0.0, y2 - y1);
  };
  const double inter = area(std::max(p[0], t[0]), std::max(p[1], t[1]), std::min(p[2], t[2]), std::min(p[3], t[3]));
  const double all = area(p[0], p[1], p[2], p[3]) + area(t[0], t[1], t[2], t[3]) - inter;
  const double hull = area(std::min(p[0], t[0]), std::min(p[1], t[1]), std::max(p[2], t[2]), std::max(p[3], t[3]));
  return 1 - (inter / all - (hull - all) / hull);
}

double l1_term(const double* p, const double* t) {
  double sum = 0;
  for (int i = 0; i < 4; ++i) sum += std::fabs(p[i] - t[i]);
  return sum;
}

double mse_term(const double* p, const double* t) {
  double sum = 0;
  for (int i = 0; i < 4; ++i) sum += (p[i] - t[i]) * (p[i] - t[i]);
  return sum;
}

struct Loss {
  const char* name;
  Tensor (*op)(const Tensor&, const Tensor&, float);
  double (*term)(const double*, const double*);
};
const Loss kLosses[] = {{"l1_box_loss", l1_box_loss, l1_term},
                        {"mse_box_loss", mse_box_loss, mse_term},
                        {"giou_box_loss", giou_box_loss, giou_term}};

OpCase make(const Loss& loss, const Tensor& pred, const Tensor& target, float scale) {
  return OpCase{.in = {pred, target},
                .run = [=](Inputs v) { return loss.op(v[0], v[1], scale); },
                .ref =
                    [=](RefInputs v) {
                      Ref y({1});
                      for (int64_t b = 0; b < v[0].rows(); ++b)
                        y[0] += static_cast<double>(scale) *
                                loss.term(&v[0].v[static_cast<size_t>(4 * b)], &v[1].v[static_cast<size_t>(4 * b)]);
                      return y;
                    },
                .grads = {0},
                .tol = 3e-7};  // double inside, one rounding of the sum and one of the scale
}

struct Pair {
  const char* name;
  std::vector<float> pred, target;
  bool kink = false;  // a shared edge: the value only; tests/core/op_rules_test.cpp has the gradient
};

// Boxes with x1 < x2 and y1 < y2; every fifth prediction has its corners exchanged.
Tensor boxes(Rand& r, int64_t n, bool some_inverted) {
  std::vector<float> v;
  for (int64_t b = 0; b < n; ++b) {
    const auto at = [&] { return static_cast<float>(r.below(1 << 20)) * 0x1p-20f; };
    const float x = at(), y = at(), w = 0.05f + at(), h = 0.05f + at();
    if (some_inverted && b % 5 == 3) {
      v.insert(v.end(), {x + w, y, x, y + h});
    } else {
      v.insert(v.end(), {x, y, x + w, y + h});
    }
  }
  return Tensor::from(v, {n, 4});
}

}  // namespace

void add_box_loss_cases(CaseList& list) {
  const std::vector<Pair> pairs = {
      {"overlap", {0.1f, 0.2f, 0.6f, 0.7f}, {0.3f, 0.1f, 0.8f, 0.5f}},
      {"disjoint", {0.1f, 0.1f, 0.2f, 0.3f}, {0.6f, 0.5f, 0.9f, 0.8f}},
      {"disjoint_in_x_only", {0.1f, 0.2f, 0.3f, 0.7f}, {0.6f, 0.4f, 0.9f, 0.9f}},
      {"pred_inside", {0.3f, 0.4f, 0.5f, 0.6f}, {0.1f, 0.2f, 0.9f, 0.8f}},
      {"pred_around", {0.1f, 0.2f, 0.9f, 0.8f}, {0.3f, 0.4f, 0.5f, 0.6f}},
      {"cross", {0.4f, 0.1f, 0.5f, 0.9f}, {0.1f, 0.4f, 0.9f, 0.6f}},
      {"outside_0_1", {-0.5f, -0.2f, 1.7f, 0.4f}, {0.1f, 0.2f, 0.9f, 0.8f}},
      {"pixels", {10.0f, 20.0f, 300.0f, 200.0f}, {30.0f, 10.0f, 280.0f, 240.0f}},
      {"equal", {0.25f, 0.25f, 0.75f, 0.5f}, {0.25f, 0.25f, 0.75f, 0.5f}, true},
      {"touching", {0.25f, 0.25f, 0.5f, 0.5f}, {0.5f, 0.25f, 0.75f, 0.5f}, true},
      {"inverted_x", {0.6f, 0.2f, 0.1f, 0.7f}, {0.3f, 0.1f, 0.8f, 0.5f}},
      {"inverted_y", {0.1f, 0.7f, 0.6f, 0.2f}, {0.3f, 0.1f, 0.8f, 0.5f}},
  };
  for (const Loss& loss : kLosses) {
    for (const Pair& p : pairs)
      list.add(cat(loss.name, "/", p.name), [=](Rand&) {
        OpCase c = make(loss, Tensor::from(p.pred, {1, 4}), Tensor::from(p.target, {1, 4}), 0.7f);
        if (p.kink) c.grads = {};
        return c;
      });
    for (const int64_t n : {0, 1, 13})
      list.add(cat(loss.name, "/", n, "_boxes"),
               [=](Rand& r) { return make(loss, boxes(r, n, true), boxes(r, n, false), 0.2f / 17); });
    list.add(
        cat(loss.name, "/1009_boxes"),
        [=](Rand& r) { return make(loss, boxes(r, 1009, true), boxes(r, 1009, false), 1.0f / 1009); }, Size::kLarge);
  }
}

}  // namespace tpo::optest
