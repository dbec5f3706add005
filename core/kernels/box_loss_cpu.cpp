// Box losses. A batch has tens of boxes: clarity before speed, one thread.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "core/kernels/box_loss.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

struct Term {
  double value = 0;
  float grad[4] = {0, 0, 0, 0};
};

// d max(a, b) / d a; a tie gives one half, as torch does, which makes the gradient at pred == target exactly zero.
double share(double a, double b) { return a > b ? 1.0 : (a == b ? 0.5 : 0.0); }

Term elementwise(const float* p, const float* t, bool square) {
  Term out;
  for (int i = 0; i < 4; ++i) {
    const double d = static_cast<double>(p[i]) - static_cast<double>(t[i]);
    out.value += square ? d * d : std::fabs(d);
    out.grad[i] = static_cast<float>(square ? 2 * d : (d > 0 ? 1.0 : (d < 0 ? -1.0 : d)));  // NaN stays NaN
  }
  return out;
}

// 1 - GIoU and its gradient for boxes with sides along kAxes axes, given as all low ends, then all high ends.
template <int kAxes, class Real>
Term giou(const Real* pred, const Real* target) {
  Term out;
  double side_p[kAxes], side_t[kAxes], inter_side[kAxes], hull_side[kAxes];
  double d_inter[kAxes][2], d_hull[kAxes][2];  // [axis][lo, hi]
  double area_p = 1, area_t = 1, inter = 1, hull = 1;
  for (int axis = 0; axis < kAxes; ++axis) {
    const double p_lo = pred[axis], p_hi = pred[axis + kAxes], t_lo = target[axis], t_hi = target[axis + kAxes];
    if (p_hi < p_lo) return {.value = 2};  // written so that NaN counts as valid and reaches the loss
    side_p[axis] = p_hi - p_lo;
    side_t[axis] = t_hi - t_lo;
    const double overlap = std::min(p_hi, t_hi) - std::max(p_lo, t_lo);
    inter_side[axis] = overlap > 0 ? overlap : 0;
    d_inter[axis][0] = overlap > 0 ? -share(p_lo, t_lo) : 0;
    d_inter[axis][1] = overlap > 0 ? share(t_hi, p_hi) : 0;
    hull_side[axis] = std::max(p_hi, t_hi) - std::min(p_lo, t_lo);
    d_hull[axis][0] = -share(t_lo, p_lo);
    d_hull[axis][1] = share(p_hi, t_hi);
    area_p *= side_p[axis], area_t *= side_t[axis], inter *= inter_side[axis], hull *= hull_side[axis];
  }
  const double all = area_p + area_t - inter;  // union
  // GIoU = inter/all - 1 + all/hull; a ratio of two zeros (both boxes degenerate) counts as 0 and 1.
  const bool no_area = all <= 0, no_hull = hull <= 0;
  out.value = 2 - (no_area ? 0 : inter / all) - (no_hull ? 1 : all / hull);
  const auto others = [](const double* side, int axis) { return kAxes == 1 ? 1.0 : side[kAxes - 1 - axis]; };
  for (int axis = 0; axis < kAxes; ++axis) {
    for (int end = 0; end < 2; ++end) {
      const double di = d_inter[axis][end] * others(inter_side, axis), dh = d_hull[axis][end] * others(hull_side, axis);
      const double da = (end == 0 ? -1.0 : 1.0) * others(side_p, axis) - di;
      double g = 0;
      if (!no_area) g += (di * all - inter * da) / (all * all);
      if (!no_hull) g += (da * hull - all * dh) / (hull * hull);
      out.grad[axis + kAxes * end] = static_cast<float>(-g);
    }
  }
  return out;
}

// Spans as (centre, width): the ends are centre -+ width / 2.
Term span_giou(const float* pred, const float* target) {
  const auto ends_of = [](const float* span) {
    const double centre = span[0], half = 0.5 * static_cast<double>(span[1]);
    return std::array{centre - half, centre + half};
  };
  const Term ends = giou<1>(ends_of(pred).data(), ends_of(target).data());
  return {ends.value, {ends.grad[0] + ends.grad[1], 0.5f * (ends.grad[1] - ends.grad[0])}};
}

Term term(BoxLossKind kind, const float* pred, const float* target) {
  switch (kind) {
    case BoxLossKind::kL1:
      return elementwise(pred, target, false);
    case BoxLossKind::kMse:
      return elementwise(pred, target, true);
    case BoxLossKind::kGiou:
      return giou<2>(pred, target);
    case BoxLossKind::kSpanGiou:
      return span_giou(pred, target);
  }
  TPO_ASSERT(false);
}

// Calls fn(b, term, weight) for every box of a kernel; one without weight has the term 0, whatever it holds.
template <class Kernel, class Fn>
void each_term(const Kernel& k, const Fn& fn) {
  const int64_t D = numbers_of(k.kind);
  with_storage(k.dtype, [&]<class T>() {
    for (int64_t b = 0; b < k.boxes; ++b) {
      float pred[4] = {}, target[4] = {};
      convert(static_cast<const T*>(k.pred) + D * b, pred, D);
      convert(static_cast<const T*>(k.target) + D * b, target, D);
      const float weight = k.weight ? k.weight[b] : 1.0f;
      fn(b, weight == 0 ? Term{} : term(k.kind, pred, target), weight);
    }
  });
}

}  // namespace

void run(const BoxLossFwd& k, Cpu, Stream&) {
  double sum = 0;
  each_term(k, [&](int64_t, const Term& t, float weight) { sum += static_cast<double>(weight) * t.value; });
  *k.loss = static_cast<float>(sum * static_cast<double>(k.scale));
}

void run(const BoxLossBwd& k, Cpu, Stream&) {
  const int64_t D = numbers_of(k.kind);
  with_storage(k.dtype, [&]<class T>() {
    each_term(k, [&](int64_t b, const Term& t, float weight) {
      const float factor = *k.dloss * k.scale * weight;
      for (int64_t i = 0; i < D; ++i) static_cast<T*>(k.dpred)[D * b + i] = narrow<T>(factor * t.grad[i]);
    });
  });
}

}  // namespace tpo
