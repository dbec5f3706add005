#pragma once
// Eight or sixteen floats in a register, and the few functions that kernels need over them. F8 is AVX2, F16 is AVX-512;
// where the processor that is compiled for has no such register, or with TPO_SIMD_SCALAR (by which the test of the twin
// is built), they are plain arrays. `Vec` is the widest that is native. Kernels include it, ops do not.
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#ifndef TPO_SIMD_SCALAR
#if defined(__AVX2__) && defined(__FMA__)
// GCC 12 warns of its own header's undefined operands (its issue 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#define TPO_AVX2 1
#endif
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define TPO_AVX512 1
#endif
#endif

namespace tpo::simd {

// The twin: a plain array, the same functions lane by lane.
template <int N>
struct Plain {
  static constexpr int kLanes = N;
  static constexpr float kExp2Low = -127;  // 2^x is 0 from here down
  float v[N];
  Plain() = default;
  explicit Plain(float x) {
    for (float& e : v) e = x;
  }
  static Plain zero() { return Plain(0.0f); }
  static Plain load(const float* p) {
    return lanes([&](int i) { return p[i]; });
  }
  void store(float* p) const {
    for (int i = 0; i < N; ++i) p[i] = v[i];
  }
  template <class Fn>
  static Plain lanes(Fn fn) {
    Plain r;
    for (int i = 0; i < N; ++i) r.v[i] = fn(i);
    return r;
  }
};

template <int N>
Plain<N> operator+(Plain<N> a, Plain<N> b) {
  return Plain<N>::lanes([&](int i) { return a.v[i] + b.v[i]; });
}
template <int N>
Plain<N> operator-(Plain<N> a, Plain<N> b) {
  return Plain<N>::lanes([&](int i) { return a.v[i] - b.v[i]; });
}
template <int N>
Plain<N> operator*(Plain<N> a, Plain<N> b) {
  return Plain<N>::lanes([&](int i) { return a.v[i] * b.v[i]; });
}
template <int N>
Plain<N> operator/(Plain<N> a, Plain<N> b) {
  return Plain<N>::lanes([&](int i) { return a.v[i] / b.v[i]; });
}
template <int N>
Plain<N> fma(Plain<N> a, Plain<N> b, Plain<N> c) {
  return Plain<N>::lanes([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
template <int N>
Plain<N> fnma(Plain<N> a, Plain<N> b, Plain<N> c) {
  return Plain<N>::lanes([&](int i) { return c.v[i] - a.v[i] * b.v[i]; });
}
template <int N>
Plain<N> max(Plain<N> a, Plain<N> b) {
  return Plain<N>::lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
template <int N>
Plain<N> min(Plain<N> a, Plain<N> b) {
  return Plain<N>::lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
template <int N>
Plain<N> round(Plain<N> a) {
  return Plain<N>::lanes([&](int i) { return std::nearbyint(a.v[i]); });
}
template <int N>
Plain<N> select_less(Plain<N> x, Plain<N> y, Plain<N> a, Plain<N> b) {
  return Plain<N>::lanes([&](int i) { return x.v[i] < y.v[i] ? a.v[i] : b.v[i]; });
}
template <int N>
Plain<N> times_exp2(Plain<N> a, Plain<N> n) {
  return Plain<N>::lanes([&](int i) {
    const int e = n.v[i] == n.v[i] ? static_cast<int>(n.v[i]) : 0;
    return a.v[i] * std::bit_cast<float>((e + 127) << 23);
  });
}
template <int N>
float hsum(Plain<N> a) {  // halves are added, as the vector versions do
  for (int n = N / 2; n >= 1; n /= 2)
    for (int i = 0; i < n; ++i) a.v[i] += a.v[i + n];
  return a.v[0];
}
template <int N>
float hmax(Plain<N> a) {
  float m = a.v[0];
  for (int i = 1; i < N; ++i) m = m > a.v[i] ? m : a.v[i];
  return m;
}

#ifdef TPO_AVX2

struct F8 {
  static constexpr int kLanes = 8;
  static constexpr float kExp2Low = -127;
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
// a * 2^n for whole n in [-127, 127], where 2^-127 counts as 0.
inline F8 times_exp2(F8 a, F8 n) {
  const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return _mm256_mul_ps(a.v, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
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

#ifdef TPO_AVX512

struct F16 {
  static constexpr int kLanes = 16;
  static constexpr float kExp2Low = -200;
  __m512 v;
  F16() = default;
  F16(__m512 x) : v(x) {}
  explicit F16(float x) : v(_mm512_set1_ps(x)) {}
  static F16 zero() { return _mm512_setzero_ps(); }
  static F16 load(const float* p) { return _mm512_loadu_ps(p); }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
};

inline F16 operator+(F16 a, F16 b) { return _mm512_add_ps(a.v, b.v); }
inline F16 operator-(F16 a, F16 b) { return _mm512_sub_ps(a.v, b.v); }
inline F16 operator*(F16 a, F16 b) { return _mm512_mul_ps(a.v, b.v); }
inline F16 operator/(F16 a, F16 b) { return _mm512_div_ps(a.v, b.v); }
inline F16 fma(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
inline F16 fnma(F16 a, F16 b, F16 c) { return _mm512_fnmadd_ps(a.v, b.v, c.v); }
inline F16 max(F16 a, F16 b) { return _mm512_max_ps(a.v, b.v); }
inline F16 min(F16 a, F16 b) { return _mm512_min_ps(a.v, b.v); }
inline F16 round(F16 a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F16 select_less(F16 x, F16 y, F16 a, F16 b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), b.v, a.v);
}
inline F16 times_exp2(F16 a, F16 n) { return _mm512_scalef_ps(a.v, n.v); }
inline F8 low_plus_high(F16 a) { return _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)); }
inline float hsum(F16 a) { return hsum(low_plus_high(a)); }
inline float hmax(F16 a) { return _mm512_reduce_max_ps(a.v); }

using Vec = F16;

#else

using F16 = Plain<16>;
using Vec = F8;

#endif

#else

using F8 = Plain<8>;
using F16 = Plain<16>;
#ifndef TPO_SIMD_SCALAR
using Vec = F8;
#else
using Vec = Plain<TPO_SIMD_SCALAR>;
#endif

inline void transpose8(const float* x, int64_t x_row, float* y, int64_t y_row) {
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) y[j * y_row + i] = x[i * x_row + j];
}

#endif

inline constexpr int kLanes = Vec::kLanes;

template <class V>
concept Floats = std::is_same_v<V, F8> || std::is_same_v<V, F16>;

template <Floats V>
V& operator+=(V& a, V b) {
  return a = a + b;
}
template <Floats V>
V& operator*=(V& a, V b) {
  return a = a * b;
}

// e^x. Relative error below 2e-7 for -87.3 < x < 88.3 (tests/cases/simd_test.cpp); below that 0, above it saturates at
// e^88.37 = 2.4e38; NaN stays NaN. Cody-Waite reduction by ln 2 and the Cephes polynomial of degree 6.
template <Floats V>
V exp(V x) {
  const V c = min(V(88.3762589f), max(V(-87.3365f), x));
  const V n = round(c * V(1.44269504f));
  const V r = fnma(n, V(-2.12194440e-4f), fnma(n, V(0.693359375f), c));
  V p = fma(V(1.9875691500e-4f), r, V(1.3981999507e-3f));
  p = fma(p, r, V(8.3334519073e-3f));
  p = fma(p, r, V(4.1665795894e-2f));
  p = fma(p, r, V(1.6666665459e-1f));
  p = fma(p, r, V(5.0000001201e-1f));
  p = fma(p, r * r, r + V(1.0f));
  return select_less(x, V(-87.3365f), V::zero(), times_exp2(p, n));
}

// 2^x for x <= 127, without a check of that. Relative error below 2e-7 for x >= -126; below it falls to 0, which it is
// at minus infinity; NaN stays NaN. Minimax polynomial of degree 5 with 2^0 = 1: half the instructions of exp.
template <Floats V>
V exp2(V x) {
  const V c = max(V(V::kExp2Low), x), n = round(c), r = c - n;
  V p = fma(V(1.3264727214e-3f), r, V(9.6715128125e-3f));
  p = fma(p, r, V(5.5507337448e-2f));
  p = fma(p, r, V(2.4022242083e-1f));
  p = fma(p, r, V(6.9314697760e-1f));
  p = fma(p, r, V(1.0f));
  return times_exp2(p, n);
}

}  // namespace tpo::simd
