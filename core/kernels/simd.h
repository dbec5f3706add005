#pragma once
// Eight floats in a register, with a plain-array twin for builds without AVX2 and FMA (or with TPO_SIMD_SCALAR, by
// which the test of the twin is built), and the few functions that kernels need over them. Kernels include it, ops do
// not.
#include <bit>
#include <cmath>
#include <cstdint>

#if defined(__AVX2__) && defined(__FMA__) && !defined(TPO_SIMD_SCALAR)
#include <immintrin.h>
#define TPO_AVX2 1
#endif

namespace tpo::simd {

inline constexpr int kLanes = 8;

#ifdef TPO_AVX2

struct F8 {
  __m256 v;
  F8() = default;
  F8(__m256 x) : v(x) {}
  explicit F8(float x) : v(_mm256_set1_ps(x)) {}
  static F8 zero() { return _mm256_setzero_ps(); }
  static F8 load(const float* p) { return _mm256_loadu_ps(p); }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
};

inline F8 operator+(F8 a, F8 b) { return _mm256_add_ps(a.v, b.v); }
inline F8 operator-(F8 a, F8 b) { return _mm256_sub_ps(a.v, b.v); }
inline F8 operator*(F8 a, F8 b) { return _mm256_mul_ps(a.v, b.v); }
inline F8 operator/(F8 a, F8 b) { return _mm256_div_ps(a.v, b.v); }
// a * b + c and c - a * b, rounded once.
inline F8 fma(F8 a, F8 b, F8 c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
inline F8 fnma(F8 a, F8 b, F8 c) { return _mm256_fnmadd_ps(a.v, b.v, c.v); }
// If either is NaN the result is b.
inline F8 max(F8 a, F8 b) { return _mm256_max_ps(a.v, b.v); }
inline F8 min(F8 a, F8 b) { return _mm256_min_ps(a.v, b.v); }
inline F8 round(F8 a) { return _mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// Per lane: x < y ? a : b (b if NaN).
inline F8 select_less(F8 x, F8 y, F8 a, F8 b) {
  return _mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(x.v, y.v, _CMP_LT_OQ));
}
// 2^n for whole n in [-126, 127].
inline F8 exp2_whole(F8 n) {
  const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
inline float hsum(F8 a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float hmax(F8 a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
// y[j * y_row + i] = x[i * x_row + j] for i, j in 0..7.
inline void transpose8(const float* x, int64_t x_row, float* y, int64_t y_row) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(x + i * x_row);
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(y + i * y_row, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(y + (i + 4) * y_row, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

#else

struct F8 {
  float v[kLanes];
  F8() = default;
  explicit F8(float x) {
    for (float& e : v) e = x;
  }
  static F8 zero() { return F8(0.0f); }
  static F8 load(const float* p) {
    F8 r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = p[i];
    return r;
  }
  void store(float* p) const {
    for (int i = 0; i < kLanes; ++i) p[i] = v[i];
  }
};

namespace detail {
template <class Fn>
F8 lanes(Fn fn) {
  F8 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = fn(i);
  return r;
}
}  // namespace detail

inline F8 operator+(F8 a, F8 b) {
  return detail::lanes([&](int i) { return a.v[i] + b.v[i]; });
}
inline F8 operator-(F8 a, F8 b) {
  return detail::lanes([&](int i) { return a.v[i] - b.v[i]; });
}
inline F8 operator*(F8 a, F8 b) {
  return detail::lanes([&](int i) { return a.v[i] * b.v[i]; });
}
inline F8 operator/(F8 a, F8 b) {
  return detail::lanes([&](int i) { return a.v[i] / b.v[i]; });
}
inline F8 fma(F8 a, F8 b, F8 c) {
  return detail::lanes([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline F8 fnma(F8 a, F8 b, F8 c) {
  return detail::lanes([&](int i) { return c.v[i] - a.v[i] * b.v[i]; });
}
inline F8 max(F8 a, F8 b) {
  return detail::lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F8 min(F8 a, F8 b) {
  return detail::lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F8 round(F8 a) {
  return detail::lanes([&](int i) { return std::nearbyint(a.v[i]); });
}
inline F8 select_less(F8 x, F8 y, F8 a, F8 b) {
  return detail::lanes([&](int i) { return x.v[i] < y.v[i] ? a.v[i] : b.v[i]; });
}
inline F8 exp2_whole(F8 n) {
  return detail::lanes([&](int i) {
    const int e = n.v[i] == n.v[i] ? static_cast<int>(n.v[i]) : 0;
    return std::bit_cast<float>((e + 127) << 23);
  });
}
inline float hsum(F8 a) {  // the same order of additions as the vector version
  const float s0 = a.v[0] + a.v[4], s1 = a.v[1] + a.v[5], s2 = a.v[2] + a.v[6], s3 = a.v[3] + a.v[7];
  return (s0 + s2) + (s1 + s3);
}
inline float hmax(F8 a) {
  float m = a.v[0];
  for (int i = 1; i < kLanes; ++i) m = m > a.v[i] ? m : a.v[i];
  return m;
}
inline void transpose8(const float* x, int64_t x_row, float* y, int64_t y_row) {
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) y[j * y_row + i] = x[i * x_row + j];
}

#endif

inline F8& operator+=(F8& a, F8 b) { return a = a + b; }
inline F8& operator*=(F8& a, F8 b) { return a = a * b; }

// e^x. Relative error below 2e-7 for -87.3 < x < 88.3 (tests/cases/simd_test.cpp); below that 0, above it saturates at
// e^88.37 = 2.4e38; NaN stays NaN. Cody-Waite reduction by ln 2 and the Cephes polynomial of degree 6.
inline F8 exp(F8 x) {
  const F8 c = min(F8(88.3762589f), max(F8(-87.3365f), x));
  const F8 n = round(c * F8(1.44269504f));
  const F8 r = fnma(n, F8(-2.12194440e-4f), fnma(n, F8(0.693359375f), c));
  F8 p = fma(F8(1.9875691500e-4f), r, F8(1.3981999507e-3f));
  p = fma(p, r, F8(8.3334519073e-3f));
  p = fma(p, r, F8(4.1665795894e-2f));
  p = fma(p, r, F8(1.6666665459e-1f));
  p = fma(p, r, F8(5.0000001201e-1f));
  p = fma(p, r * r, r + F8(1.0f));
  return select_less(x, F8(-87.3365f), F8::zero(), p * exp2_whole(n));
}

}  // namespace tpo::simd
