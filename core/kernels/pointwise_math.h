#pragma once
// Elementwise maths as scalar functions without branches, so that a loop marked `omp simd` turns them into vector code.
// The same functions are meant for device code: each is pure and touches no memory.
#include <bit>
#include <cstdint>

#include "core/inline.h"

namespace tpo::math {

// e^x, relative error below 2e-7 (two units in the last place). 0 below -86.6, inf above 88.72, NaN stays NaN.
// x = n ln2 + r with |r| <= ln2 / 2, e^r by its Taylor series to r^7, 2^n by the exponent field.
TPO_INLINE float exp(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float clamped = x > 89.0f ? 89.0f : (x < -86.6f ? -86.6f : x);
  const float shifted = clamped * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // ln2 in two parts, the first exact in 9 bits
  float p = 1.98412698e-4f;
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  // 2 p 2^(n-1): n reaches 128, which the exponent field of 2^n could not hold.
  const uint32_t bits = (std::bit_cast<uint32_t>(shifted) + 126u) << 23;
  const float y = (p + p) * std::bit_cast<float>(bits);
  return x < -86.6f ? 0.0f : y;
}

// 1 / (1 + e^-x)
TPO_INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }

// 2 atanh(s) = log((1 + s) / (1 - s)) for |s| <= 1/3, by its series to s^13; the first term left out is 1.4e-8 of it.
TPO_INLINE float twice_atanh(float s) {
  const float q = s * s;
  float p = 7.69230769e-2f;
  p = p * q + 9.09090909e-2f;
  p = p * q + 1.11111111e-1f;
  p = p * q + 1.42857143e-1f;
  p = p * q + 0.2f;
  p = p * q + 3.33333333e-1f;
  return 2.0f * s + 2.0f * s * q * p;
}

// log x to 2e-7 of itself. -inf below 2^-126 and for negative x, NaN for NaN; x = inf is not allowed. x = 2^n m with m
// in [sqrt(1/2), sqrt(2)), log m = 2 atanh((m - 1) / (m + 1)). Callers limit the result, not x: the compiler would give
// a constant x a branch of its own, and the loop no vector.
TPO_INLINE float log(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const int32_t n = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  const float m = std::bit_cast<float>(bits - (static_cast<uint32_t>(n) << 23)), whole = static_cast<float>(n);
  const float y = whole * 0.693359375f + (twice_atanh((m - 1.0f) / (m + 1.0f)) - whole * 2.12194440e-4f);
  return y + x * 0.0f + (x >= 1.17549435e-38f ? 0.0f : -__builtin_inff());
}

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), the last with no loss where it is small. For e in (0, 1]:
// log(1 + e) = 2 atanh(e / (2 + e)).
TPO_INLINE float softplus(float x) {
  const float e = exp(x < 0.0f ? x : -x);
  return (x < 0.0f ? 0.0f : x) + twice_atanh(e / (2.0f + e));
}

// The normal distribution: cdf P(Z <= x) with absolute error below 2e-7, and its density.
struct Normal {
  float cdf;
  float pdf;
};

// cdf(-|x|) = erfc(z) / 2 with z = |x| / sqrt2 and erfc(z) = t (c0 + c1 t + .. + c5 t^5) e^(-z^2), t = 1 / (1 + 0.4 z):
// the form of Hastings (Abramowitz and Stegun 7.1.26) with one more coefficient, fitted by least maximum of the error.
TPO_INLINE Normal normal(float x) {
  const float z = (x < 0.0f ? -x : x) * 0.70710678f;
  const float e = exp(-z * z);
  const float t = 1.0f / (1.0f + 0.4f * z);
  float p = -0.200257678f;
  p = p * t + 0.709141266f;
  p = p * t - 0.370898637f;
  p = p * t + 0.468267098f;
  p = p * t + 0.161826227f;
  p = p * t + 0.231921697f;
  const float half = 0.5f * p * t * e;
  return {x < 0.0f ? half : 1.0f - half, 0.39894228f * e};
}

// Activations. f(x) is the value; d(saved) the derivative, where `saved` is x, or y = f(x) when kSavesOutput.
struct Relu {
  static constexpr bool kSavesOutput = true;
  static constexpr int64_t kFlops = 1;
  TPO_INLINE static float f(float x) { return x < 0.0f ? 0.0f : x; }  // NaN stays NaN
  TPO_INLINE static float d(float y) { return y > 0.0f ? 1.0f : 0.0f; }
};

struct Sigmoid {
  static constexpr bool kSavesOutput = true;
  static constexpr int64_t kFlops = 24;
  TPO_INLINE static float f(float x) { return sigmoid(x); }
  TPO_INLINE static float d(float y) { return y * (1.0f - y); }
};

// x sigmoid(x)
struct Silu {
  static constexpr bool kSavesOutput = false;
  static constexpr int64_t kFlops = 25;
  TPO_INLINE static float f(float x) { return x * sigmoid(x); }
  TPO_INLINE static float d(float x) {
    const float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
  }
};

// x cdf(x), the exact form (torch's default)
struct Gelu {
  static constexpr bool kSavesOutput = false;
  static constexpr int64_t kFlops = 40;
  TPO_INLINE static float f(float x) { return x * normal(x).cdf; }
  TPO_INLINE static float d(float x) {
    const Normal n = normal(x);
    return n.cdf + x * n.pdf;
  }
};

// x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
struct GeluTanh {
  static constexpr bool kSavesOutput = false;
  static constexpr int64_t kFlops = 30;
  TPO_INLINE static float f(float x) { return x * sigmoid(twice_u(x)); }
  TPO_INLINE static float d(float x) {
    const float s = sigmoid(twice_u(x));
    return s + x * s * (1.0f - s) * (1.59576912f + 0.21406661f * x * x);
  }

 private:
  TPO_INLINE static float twice_u(float x) { return x * (1.59576912f + 0.07135481f * x * x); }
};

// Two operands. f(a, b) is the value, da and db its partial derivatives. Equal operands share the gradient of a minimum
// or maximum by halves, as in torch; NaN in either makes NaN.
struct Div {
  TPO_INLINE static float f(float a, float b) { return a / b; }
  TPO_INLINE static float da(float, float b) { return 1.0f / b; }
  TPO_INLINE static float db(float a, float b) { return -(a / b) / b; }
};

struct Max {
  TPO_INLINE static float f(float a, float b) { return ((a > b) | (a != a)) ? a : b; }
  TPO_INLINE static float da(float a, float b) { return a > b ? 1.0f : (a == b ? 0.5f : 0.0f); }
  TPO_INLINE static float db(float a, float b) { return da(b, a); }
};

struct Min {
  TPO_INLINE static float f(float a, float b) { return ((a < b) | (a != a)) ? a : b; }
  TPO_INLINE static float da(float a, float b) { return Max::da(b, a); }
  TPO_INLINE static float db(float a, float b) { return Max::da(a, b); }
};

// min(max(x, lo), hi); NaN stays NaN.
TPO_INLINE float clamp(float x, float lo, float hi) {
  const float above = x < lo ? lo : x;
  return above > hi ? hi : above;
}

}  // namespace tpo::math
