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

// Spans (centre, width), by their ends.
double span_term(const double* p, const double* t) {
  if (p[1] < 0) return 2;
  const double lo = p[0] - p[1] / 2, hi = p[0] + p[1] / 2, t_lo = t[0] - t[1] / 2, t_hi = t[0] + t[1] / 2;
  const double inter = std::max(0.0, std::min(hi, t_hi) - std::max(lo, t_lo)), all = p[1] + t[1] - inter;
  const double hull = std::max(hi, t_hi) - std::min(lo, t_lo);
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
  Tensor (*op)(const Tensor&, const Tensor&, float, const Tensor&);
  double (*term)(const double*, const double*);
};
const Loss kLosses[] = {{"l1_box_loss", l1_box_loss, l1_term},
                        {"mse_box_loss", mse_box_loss, mse_term},
                        {"giou_box_loss", giou_box_loss, giou_term}};

const Loss kSpanLoss = {"giou_span_loss", giou_span_loss, span_term};

OpCase make(const Loss& loss, const Tensor& pred, const Tensor& target, float scale, const Tensor& weight = {}) {
  return OpCase{.in = {pred, target, weight},
                .run = [=](Inputs v) { return loss.op(v[0], v[1], scale, v[2]); },
                .ref =
                    [=](RefInputs v) {
                      Ref y({1});
                      for (int64_t b = 0; b < v[0].rows(); ++b) {
                        const auto at = static_cast<size_t>(v[0].cols() * b);
                        const double w = v[2].v.empty() ? 1 : v[2][b];
                        y[0] += static_cast<double>(scale) * w * loss.term(&v[0].v[at], &v[1].v[at]);
                      }
                      return y;
                    },
                .grads = {0},
                .tol = 3e-7,       // double inside, one rounding of the sum and one of the scale
                .bf16_stores = 0,  // the loss is f32
                .bf16_grad_stores = 1,
                .f32_in = {2}};
}

struct Pair {
  const char* name;
  std::vector<float> pred, target;
  bool kink = false;  // a shared edge: the value only; tests/core/op_rules_test.cpp has the gradient
};

// Edges of predictions are multiples of 2^-6, those of targets lie half way between: in bf16, too, none coincide, where
// the losses have kinks. Every fifth prediction is inverted.
enum class Side { kPred, kTarget };

float grid(Rand& r, Side side) {
  return static_cast<float>(r.below(64)) * 0x1p-6f + (side == Side::kTarget ? 0x1p-7f : 0.0f);
}
float extent(Rand& r) { return 0x1p-4f + static_cast<float>(r.below(28)) * 0x1p-5f; }

Tensor boxes(Rand& r, int64_t n, Side side) {
  std::vector<float> v;
  for (int64_t b = 0; b < n; ++b) {
    const float x = grid(r, side), y = grid(r, side), w = extent(r), h = extent(r);
    if (side == Side::kPred && b % 5 == 3) {
      v.insert(v.end(), {x + w, y, x, y + h});
    } else {
      v.insert(v.end(), {x, y, x + w, y + h});
    }
  }
  return Tensor::from(v, {n, 4});
}

Tensor spans(Rand& r, int64_t n, Side side) {
  std::vector<float> v;
  for (int64_t b = 0; b < n; ++b) {
    v.push_back(grid(r, side));
    v.push_back((side == Side::kPred && b % 5 == 3 ? -1.0f : 1.0f) * extent(r));
  }
  return Tensor::from(v, {n, 2});
}

// 0, 1/2, 1, 3/2, 0, ..: exact in f32
Tensor weights(int64_t n) {
  std::vector<float> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) v[i] = 0.5f * static_cast<float>(i % 4);
  return Tensor::from(v, {n});
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
    for (const int64_t n : {0, 1, 13, 1009}) {
      const float scale = 0.2f / static_cast<float>(n + 4);
      const Size size = n == 1009 ? Size::kLarge : Size::kSmall;
      const auto pair = [=](Rand& r) {
        return make(loss, boxes(r, n, Side::kPred), boxes(r, n, Side::kTarget), scale);
      };
      list.add(cat(loss.name, "/", n, "_boxes"), pair, size);
      list.add(
          cat(loss.name, "/weighted/", n, "_boxes"),
          [=](Rand& r) { return make(loss, boxes(r, n, Side::kPred), boxes(r, n, Side::kTarget), scale, weights(n)); },
          size);
    }
  }
  for (const int64_t n : {0, 1, 13, 1009})
    for (const bool weighted : {false, true})
      list.add(
          cat("giou_span_loss/", weighted ? "weighted/" : "", n, "_spans"),
          [=](Rand& r) {
            const Tensor pred = spans(r, n, Side::kPred), target = spans(r, n, Side::kTarget);
            return make(kSpanLoss, pred, target, 0.3f, weighted ? weights(n) : Tensor());
          },
          n == 1009 ? Size::kLarge : Size::kSmall);
}

}  // namespace tpo::optest
