#include <algorithm>

#include "core/ops/loss.h"
#include "core/ops/row_loss.h"
#include "core/ops/softmax.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_row_loss_cases(CaseList&);

namespace {

constexpr float kScale = 0.3f;

// Row r of x as logarithms of its distribution.
std::vector<double> log_row(const Ref& x, int64_t r, RowsAs as) {
  std::vector<double> y;
  double top = x.at(r, 0), sum = 0;
  for (int64_t c = 0; c < x.cols(); ++c) top = std::max(top, x.at(r, c));
  for (int64_t c = 0; c < x.cols(); ++c) sum += std::exp(x.at(r, c) - top);
  for (int64_t c = 0; c < x.cols(); ++c)
    y.push_back(as == RowsAs::kLogits     ? x.at(r, c) - top - std::log(sum)
                : as == RowsAs::kLogProbs ? x.at(r, c)
                                          : std::log(x.at(r, c)));
  return y;
}

double weight_of(const Ref& w, int64_t r) { return w.v.empty() ? 1 : w[r]; }

Ref ref_soft(RefInputs v, const Ref& weight) {
  Ref y({1});
  for (int64_t r = 0; r < v[0].rows(); ++r) {
    const auto log_q = log_row(v[0], r, RowsAs::kLogits);
    for (int64_t c = 0; c < v[0].cols(); ++c)
      y[0] -= static_cast<double>(kScale) * weight_of(weight, r) * v[1].at(r, c) * log_q[static_cast<size_t>(c)];
  }
  return y;
}

Ref ref_labels(RefInputs v) {
  Ref y({1});
  for (int64_t r = 0; r < v[0].rows(); ++r) {
    const double label = v[1][r];
    if (label >= 0)
      y[0] -= static_cast<double>(kScale) * weight_of(v[2], static_cast<int64_t>(label)) *
              log_row(v[0], r, RowsAs::kLogits)[static_cast<size_t>(label)];
  }
  return y;
}

Ref ref_kl(RefInputs v, RowsAs x_as, RowsAs target_as) {
  Ref y({1});
  for (int64_t r = 0; r < v[0].rows(); ++r) {
    const auto log_q = log_row(v[0], r, x_as), log_t = log_row(v[1], r, target_as);
    for (size_t c = 0; c < log_q.size(); ++c) {
      const double t = std::exp(log_t[c]);
      if (t > 0) y[0] += static_cast<double>(kScale) * weight_of(v[2], r) * t * (log_t[c] - log_q[c]);
    }
  }
  return y;
}

Ref ref_dice(RefInputs v, double eps) {
  Ref y({1});
  const int64_t R = v[0].shape[0], C = v[0].shape.numel() / R;
  for (int64_t r = 0; r < R; ++r) {
    double both = 0, sum = 0;
    for (int64_t i = r * C; i < (r + 1) * C; ++i) {
      const double p = 1 / (1 + std::exp(-v[0][i])), t = v[1][i];
      both += p * t, sum += p + t;
    }
    y[0] += static_cast<double>(kScale) * weight_of(v[2], r) * (1 - (2 * both + eps) / (sum + eps));
  }
  return y;
}

struct Dims {
  Shape shape;
  bool weighted;
  Size size = Size::kSmall;
};

const Dims kDims[] = {{{1, 1}, false},
                      {{7, 13}, true},
                      {{3, 2, 5}, false},
                      {{67, 1031}, true, Size::kLarge},
                      {{1024, 1024}, false, Size::kBench}};

// Two thirds of the weights are 0.
Tensor weights(Rand& r, int64_t n) {
  return mapped(r.uniform({n}, -2, 1), [](float e) { return std::max(e, 0.0f); });
}

int64_t rows_of(const Shape& s) { return s.numel() / s[-1]; }

std::string name(const char* op, const Dims& d) { return cat(op, "/", d.weighted ? "weighted/" : "", d.shape); }

OpCase finish(OpCase c, int64_t cols) {
  c.grads = {0};
  // The logarithm of a sum of exponentials is good to 4e-7 of itself; the larger terms add in eight lanes and, in a
  // divergence, cancel to a few tenths of their size.
  c.tol = 2e-6 + 3 * sum_tolerance(cols / 8);
  c.bf16_stores = 0;  // the loss is f32; the gradient is rounded as it is kept, and times the loss's own
  c.bf16_grad_stores = 2;
  c.f32_in = {2};
  return c;
}

void add_cross_entropies(CaseList& list, const Dims& d) {
  const int64_t R = rows_of(d.shape), C = d.shape[-1];
  list.add(
      name("soft_cross_entropy", d),
      [=](Rand& r) {
        return finish({.in = {r.normal(d.shape, 2), r.uniform(d.shape, 0, 1), d.weighted ? weights(r, R) : Tensor()},
                       .run = [](Inputs v) { return soft_cross_entropy(v[0], v[1], kScale, v[2]); },
                       .ref = [](RefInputs v) { return ref_soft(v, v[2]); }},
                      C);
      },
      d.size);
  list.add(
      name("cross_entropy", d),
      [=](Rand& r) {
        const Tensor labels = r.integers(R, 0, C);
        if (R > 1 && labels.device() == Device::kCpu) labels.data<int32_t>()[R / 2] = kIgnoreTarget;
        return finish({.in = {r.normal(d.shape, 2), labels, d.weighted ? r.uniform({C}, 0, 2) : Tensor()},
                       .run = [](Inputs v) { return cross_entropy(v[0], v[1], kScale, v[2]); },
                       .ref = ref_labels},
                      C);
      },
      d.size);
}

// Probabilities stay off 0, where a step of 1e-5 would be large; they need not sum to 1.
Tensor rows_as(Rand& r, const Shape& s, RowsAs as) {
  if (as == RowsAs::kProbs) return r.uniform(s, 0.05f, 1);
  return as == RowsAs::kLogits ? r.normal(s, 2) : log_softmax(r.normal(s, 2));
}

void add_kl(CaseList& list, const Dims& d, RowsAs x_as, RowsAs target_as, const char* what) {
  const int64_t R = rows_of(d.shape);
  list.add(
      cat(name("kl_loss", d), what),
      [=](Rand& r) {
        return finish(
            {.in = {rows_as(r, d.shape, x_as), rows_as(r, d.shape, target_as), d.weighted ? weights(r, R) : Tensor()},
             .run = [=](Inputs v) { return kl_loss(v[0], x_as, v[1], target_as, kScale, v[2]); },
             .ref = [=](RefInputs v) { return ref_kl(v, x_as, target_as); }},
            d.shape[-1]);
      },
      d.size);
}

void add_dice(CaseList& list, const Dims& d) {
  list.add(
      name("dice_loss", d),
      [=](Rand& r) {
        return finish(
            {.in = {r.normal(d.shape, 2), r.uniform(d.shape, 0, 1), d.weighted ? weights(r, d.shape[0]) : Tensor()},
             .run = [](Inputs v) { return dice_loss(v[0], v[1], 1, kScale, v[2]); },
             .ref = [](RefInputs v) { return ref_dice(v, 1); }},
            4096);
      },
      d.size);
}

}  // namespace

void add_row_loss_cases(CaseList& list) {
  for (const Dims& d : kDims) {
    add_cross_entropies(list, d);
    add_kl(list, d, RowsAs::kLogits, RowsAs::kProbs, "");
    if (d.size != Size::kBench) {
      add_kl(list, d, RowsAs::kLogits, RowsAs::kLogits, "/logits_of_logits");
      add_kl(list, d, RowsAs::kLogProbs, RowsAs::kLogits, "/log_probs_of_logits");
      add_kl(list, d, RowsAs::kProbs, RowsAs::kProbs, "/probs");
    }
    add_dice(list, d);
  }
  add_dice(list, {{2, 97, 103}, true, Size::kLarge});  // a row of three chunks
  add_dice(list, {{3, 256, 256}, false, Size::kBench});
}

}  // namespace tpo::optest
