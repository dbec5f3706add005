#include <algorithm>

#include "core/ops/element_loss.h"
#include "core/ops/pointwise.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_element_loss_cases(CaseList&);

namespace {

double ref_bce(double x, double t, double pos_weight) {
  return pos_weight * t * std::log1p(std::exp(-x)) + (1 - t) * std::log1p(std::exp(x));
}

double ref_focal(double x, double t, double alpha, double gamma) {
  const double p = 1 / (1 + std::exp(-x)), same = p * t + (1 - p) * (1 - t);
  const double a = alpha < 0 ? 1 : alpha * t + (1 - alpha) * (1 - t);
  return a * std::pow(1 - same, gamma) * ref_bce(x, t, 1);
}

double ref_smooth(double d, double beta) { return std::fabs(d) < beta ? d * d / (2 * beta) : std::fabs(d) - beta / 2; }

enum class Kind { kDifference, kLogit, kProbability };

struct Loss {
  const char* name;
  Kind kind;  // what the operands are
  Tensor (*op)(const Tensor& x, const Tensor& t, float scale, const Tensor& w);
  double (*f)(double x, double t);
};

const Loss kLosses[] = {
    {"l1_loss", Kind::kDifference,
     [](const Tensor& x, const Tensor& t, float s, const Tensor& w) { return l1_loss(x, t, s, w); },
     [](double x, double t) { return std::fabs(x - t); }},
    {"mse_loss", Kind::kDifference,
     [](const Tensor& x, const Tensor& t, float s, const Tensor& w) { return mse_loss(x, t, s, w); },
     [](double x, double t) { return (x - t) * (x - t); }},
    {"smooth_l1_loss", Kind::kDifference,
     [](const Tensor& x, const Tensor& t, float s, const Tensor& w) { return smooth_l1_loss(x, t, 0.75f, s, w); },
     [](double x, double t) { return ref_smooth(x - t, 0.75); }},
    {"hinge_loss", Kind::kDifference,  // of x - t, whose kink lies at 0
     [](const Tensor& x, const Tensor& t, float s, const Tensor& w) { return hinge_loss(sub(x, t), 0, s, w); },
     [](double x, double t) { return std::max(0.0, t - x); }},
    {"bce_with_logits", Kind::kLogit,
     [](const Tensor& x, const Tensor& t, float s, const Tensor& w) { return bce_with_logits(x, t, s, w); },
     [](double x, double t) { return ref_bce(x, t, 1); }},
    {"bce_with_logits/pos_weight", Kind::kLogit,
     [](const Tensor& x, const Tensor& t, float s, const Tensor& w) { return bce_with_logits(x, t, s, w, 2.5f); },
     [](double x, double t) { return ref_bce(x, t, 2.5); }},
    {"sigmoid_focal_loss", Kind::kLogit,
     [](const Tensor& x, const Tensor& t, float s, const Tensor& w) {
       return sigmoid_focal_loss(x, t, 0.25f, 2, s, w);
     },
     [](double x, double t) { return ref_focal(x, t, 0.25, 2); }},
    {"sigmoid_focal_loss/gamma_1.5", Kind::kLogit,
     [](const Tensor& x, const Tensor& t, float s, const Tensor& w) {
       return sigmoid_focal_loss(x, t, -1, 1.5f, s, w);
     },
     [](double x, double t) { return ref_focal(x, t, -1, 1.5); }},
    {"sigmoid_focal_loss/gamma_0", Kind::kLogit,
     [](const Tensor& x, const Tensor& t, float s, const Tensor& w) {
       return sigmoid_focal_loss(x, t, 0.75f, 0, s, w);
     },
     [](double x, double t) { return ref_focal(x, t, 0.75, 0); }},
    {"bce_loss", Kind::kProbability,
     [](const Tensor& x, const Tensor& t, float s, const Tensor& w) { return bce_loss(x, t, s, w); },
     [](double x, double t) { return -t * std::log(x) - (1 - t) * std::log(1 - x); }},
};

enum class Weight { kNone, kElements, kRows };

struct Dims {
  Shape shape;
  Weight weight = Weight::kNone;
  Size size = Size::kSmall;
};

std::vector<Tensor> inputs(Rand& r, const Loss& loss, const Dims& d) {
  Tensor x, t, w;
  if (loss.kind == Kind::kDifference) {
    t = r.normal(d.shape);
    x = add(t, off_zero(r.normal(d.shape)));
  } else {
    x = loss.kind == Kind::kLogit ? r.normal(d.shape, 3) : r.uniform(d.shape, 0.02f, 0.98f);
    t = mapped(r.uniform(d.shape, -1, 2), [](float e) { return std::clamp(e, 0.0f, 1.0f); });  // two thirds are hard
  }
  // A quarter of the weights is 0.
  if (d.weight != Weight::kNone)
    w = mapped(r.uniform(d.weight == Weight::kRows ? Shape{d.shape[0]} : d.shape, -0.5f, 1.5f),
               [](float e) { return std::max(e, 0.0f); });
  return {x, t, w};
}

Ref reference(const Loss& loss, RefInputs v, double scale) {
  Ref y({1});
  const int64_t n = v[0].shape.numel(), weights = static_cast<int64_t>(v[2].v.size());
  for (int64_t i = 0; i < n; ++i)
    y[0] += scale * (weights == 0 ? 1 : v[2][i / (n / weights)]) * loss.f(v[0][i], v[1][i]);
  return y;
}

}  // namespace

void add_element_loss_cases(CaseList& list) {
  for (const Dims& d : {Dims{{1}},
                        {{7, 13}},
                        {{7, 13}, Weight::kElements},
                        {{3, 5, 11}, Weight::kRows},
                        {{67, 1031}, Weight::kNone, Size::kLarge},
                        {{67, 1031}, Weight::kElements, Size::kLarge},
                        {{1031, 67}, Weight::kRows, Size::kLarge},
                        {{0, 3}},
                        {{1024, 1024}, Weight::kNone, Size::kBench}})
    for (const Loss& loss : kLosses) {
      const bool hinge = std::string(loss.name) == "hinge_loss";  // has its operand from sub, which rounds
      list.add(
          cat(loss.name, "/",
              d.weight == Weight::kNone   ? ""
              : d.weight == Weight::kRows ? "rows/"
                                          : "weighted/",
              d.shape),
          [=, &loss](Rand& r) {
            return OpCase{.in = inputs(r, loss, d),
                          .run = [&loss](Inputs v) { return loss.op(v[0], v[1], 0.3f, v[2]); },
                          .ref = [&loss](RefInputs v) { return reference(loss, v, static_cast<double>(0.3f)); },
                          .grads = {0},
                          // Terms are positive: 4e-7 each for exponential and series; 128 additions a lane.
                          .tol = 4e-7 + sum_tolerance(128),
                          .bf16_stores = hinge ? 1 : 0,  // the loss is f32
                          .bf16_grad_stores = 2,         // as it is kept, and times the loss's own
                          .f32_in = {2}};
          },
          d.size);
    }
}

}  // namespace tpo::optest
