#pragma once
// Losses of one element as functors: value(x, t) and slope(x, t) = d value / d x for a target t. Pure and without
// branches, for vector loops and device code alike. Formulas and sources: ops/element_loss.h.
#include "core/kernels/pointwise_math.h"

namespace tpo::loss {

TPO_INLINE float abs(float x) { return x < 0.0f ? -x : x; }
TPO_INLINE float sign(float x) { return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : x); }  // NaN stays NaN

// What losses need of a logit x, each without cancellation: p = sigmoid(x), n = 1 - p, -log p and -log n.
struct Logit {
  float p, n, minus_log_p, minus_log_n;
};

TPO_INLINE Logit logit(float x) {
  const float e = math::exp(-abs(x)), high = 1.0f / (1.0f + e), low = e * high;
  const float tail = math::twice_atanh(e / (2.0f + e));  // log(1 + e)
  const bool negative = x < 0.0f;
  return {negative ? low : high, negative ? high : low, negative ? tail - x : tail, negative ? tail : tail + x};
}

struct L1 {
  static constexpr int64_t kFlops = 2;
  TPO_INLINE float value(float x, float t) const { return abs(x - t); }
  TPO_INLINE float slope(float x, float t) const { return sign(x - t); }
};

struct Mse {
  static constexpr int64_t kFlops = 2;
  TPO_INLINE float value(float x, float t) const { return (x - t) * (x - t); }
  TPO_INLINE float slope(float x, float t) const { return 2.0f * (x - t); }
};

// A parabola of d = x - t up to |d| = beta, a line behind.
struct SmoothL1 {
  static constexpr int64_t kFlops = 5;
  float beta;
  TPO_INLINE float value(float x, float t) const {
    const float a = abs(x - t);
    return a < beta ? 0.5f * a * a / beta : a - 0.5f * beta;
  }
  TPO_INLINE float slope(float x, float t) const {
    const float d = x - t;
    return abs(d) < beta ? d / beta : sign(d);
  }
};

// -pos_weight t log p - (1 - t) log(1 - p) of the logit
struct BceLogits {
  static constexpr int64_t kFlops = 45;
  float pos_weight;
  TPO_INLINE float value(float x, float t) const {
    const Logit l = logit(x);
    return pos_weight * t * l.minus_log_p + (1.0f - t) * l.minus_log_n;
  }
  TPO_INLINE float slope(float x, float t) const {
    const Logit l = logit(x);
    return (1.0f - t) * l.p - pos_weight * t * l.n;
  }
};

// -t log p - (1 - t) log(1 - p), both arguments held in [kFloor, 1].
struct Bce {
  static constexpr int64_t kFlops = 50;
  static constexpr float kFloor = 1e-6f;
  TPO_INLINE float value(float p, float t) const { return t * minus_log(p) + (1.0f - t) * minus_log(1.0f - p); }
  TPO_INLINE float slope(float p, float t) const {
    const float n = 1.0f - p;
    return (n < kFloor || n > 1.0f ? 0.0f : (1.0f - t) / n) - (p < kFloor || p > 1.0f ? 0.0f : t / p);
  }

 private:
  TPO_INLINE static float minus_log(float p) {
    const float y = -math::log(p), most = 13.8155106f;  // -log kFloor
    return y > most ? most : (y < 0.0f ? 0.0f : y);
  }
};

// a q^gamma ce with q = 1 - p_t = p (1 - t) + (1 - p) t. With kSquare, gamma is 2 and no power is taken.
template <bool kSquare>
struct Focal {
  static constexpr int64_t kFlops = kSquare ? 60 : 105;
  float alpha, gamma;
  TPO_INLINE float value(float x, float t) const {
    const Logit l = logit(x);
    return weight(t) * power(l.p * (1.0f - t) + l.n * t) * entropy(l, t);
  }
  // a (q^gamma ce' + gamma q^(gamma-1) q' ce), ce' = p - t, q' = (1 - 2t) p (1 - p). q' / q is of the size of 1.
  TPO_INLINE float slope(float x, float t) const {
    const Logit l = logit(x);
    const float q = l.p * (1.0f - t) + l.n * t;
    const float relative = (1.0f - 2.0f * t) * l.p * l.n / positive(q);
    return weight(t) * power(q) * (l.p * (1.0f - t) - l.n * t + gamma * relative * entropy(l, t));
  }

 private:
  TPO_INLINE static float positive(float q) { return q < 1e-37f ? 1e-37f : q; }
  TPO_INLINE float weight(float t) const { return alpha < 0.0f ? 1.0f : alpha * t + (1.0f - alpha) * (1.0f - t); }
  TPO_INLINE float power(float q) const {
    if constexpr (kSquare) return q * q;
    const float y = math::log(q), least = -85.1954f;
    return math::exp(gamma * (y < least ? least : y));
  }
  TPO_INLINE static float entropy(const Logit& l, float t) { return t * l.minus_log_p + (1.0f - t) * l.minus_log_n; }
};

// max(0, margin - x); the target is not used.
struct Hinge {
  static constexpr int64_t kFlops = 2;
  float margin;
  TPO_INLINE float value(float x, float) const { return margin - x < 0.0f ? 0.0f : margin - x; }
  // Not a choice between 0 and -1: beside the value's, GCC 12 makes vector code of it that gives 0 everywhere
  // (AVX-512).
  TPO_INLINE float slope(float x, float) const {
    const float below = margin - x;
    return below >= 0.0f ? -1.0f : 0.0f * below;
  }
};

}  // namespace tpo::loss
