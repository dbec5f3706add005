// Box losses. A batch has tens of boxes: clarity before speed, one thread.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/kernels/box_loss.h"
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

// 1 - GIoU and its gradient. One axis at a time: [lo, hi] are x1, x2 or y1, y2.
Term giou(const float* pred, const float* target) {
  Term out;
  // Written so that NaN counts as valid and reaches the loss.
  if (pred[2] < pred[0] || pred[3] < pred[1]) {
    out.value = 2;
    return out;
  }
  double side_p[2], side_t[2], inter_side[2], hull_side[2];
  double d_inter[2][2], d_hull[2][2];  // [axis][lo, hi]
  for (int axis = 0; axis < 2; ++axis) {
    const double p_lo = pred[axis], p_hi = pred[axis + 2], t_lo = target[axis], t_hi = target[axis + 2];
    side_p[axis] = p_hi - p_lo;
    side_t[axis] = t_hi - t_lo;
    const double overlap = std::min(p_hi, t_hi) - std::max(p_lo, t_lo);
    inter_side[axis] = overlap > 0 ? overlap : 0;
    d_inter[axis][0] = overlap > 0 ? -share(p_lo, t_lo) : 0;
    d_inter[axis][1] = overlap > 0 ? share(t_hi, p_hi) : 0;
    hull_side[axis] = std::max(p_hi, t_hi) - std::min(p_lo, t_lo);
    d_hull[axis][0] = -share(t_lo, p_lo);
    d_hull[axis][1] = share(p_hi, t_hi);
  }
  const double inter = inter_side[0] * inter_side[1], hull = hull_side[0] * hull_side[1];
  const double all = side_p[0] * side_p[1] + side_t[0] * side_t[1] - inter;  // union
  // GIoU = inter/all - 1 + all/hull; a ratio of two zeros (both boxes degenerate) counts as 0 and 1.
  const bool no_area = all <= 0, no_hull = hull <= 0;
  out.value = 2 - (no_area ? 0 : inter / all) - (no_hull ? 1 : all / hull);
  for (int axis = 0; axis < 2; ++axis) {
    const int other = 1 - axis;
    for (int end = 0; end < 2; ++end) {
      const double di = d_inter[axis][end] * inter_side[other], dh = d_hull[axis][end] * hull_side[other];
      const double da = (end == 0 ? -1.0 : 1.0) * side_p[other] - di;
      double g = 0;
      if (!no_area) g += (di * all - inter * da) / (all * all);
      if (!no_hull) g += (da * hull - all * dh) / (hull * hull);
      out.grad[axis + 2 * end] = static_cast<float>(-g);
    }
  }
  return out;
}

Term term(BoxLossKind kind, const float* pred, const float* target) {
  switch (kind) {
    case BoxLossKind::kL1:
      return elementwise(pred, target, false);
    case BoxLossKind::kMse:
      return elementwise(pred, target, true);
    case BoxLossKind::kGiou:
      return giou(pred, target);
  }
  TPO_ASSERT(false);
}

}  // namespace

void run(const BoxLossFwd& k, Cpu, Stream&) {
  double sum = 0;
  for (int64_t b = 0; b < k.boxes; ++b) sum += term(k.kind, k.pred + 4 * b, k.target + 4 * b).value;
  *k.loss = static_cast<float>(sum * static_cast<double>(k.scale));
}

void run(const BoxLossBwd& k, Cpu, Stream&) {
  const float factor = *k.dloss * k.scale;
  for (int64_t b = 0; b < k.boxes; ++b) {
    const Term t = term(k.kind, k.pred + 4 * b, k.target + 4 * b);
    for (int i = 0; i < 4; ++i) k.dpred[4 * b + i] = factor * t.grad[i];
  }
}

}  // namespace tpo
