#pragma once
// Philox of core/rng.h for many counters at once, for the kernels that drop elements: blocks of one row, and one block
// of eight rows.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/inline.h"
#include "core/kernels/simd.h"
#include "core/rng.h"

namespace tpo {

// uniform01(word) >= p iff word >> 8 >= drop_limit(p): both sides are exact multiples of 2^-24 after rounding p up.
inline int32_t drop_limit(float p) { return static_cast<int32_t>(std::ceil(static_cast<double>(p) * 0x1p24)); }

#ifdef TPO_AVX2

// Eight counters, which become their words: four a register, one to a 64-bit lane, and two registers at a time to
// overlap their chains. Only the lower half of a lane is a word: the multiplication reads no more, so what is left in
// the upper half does no harm.
struct PhiloxLanes {
  static constexpr int kSets = 2;
  __m256i c0[kSets], c1[kSets], c2[kSets], c3[kSets];

  // lo, hi: counters as 64-bit lanes.
  TPO_INLINE void set(int s, __m256i lo, __m256i hi) {
    c0[s] = lo, c1[s] = _mm256_srli_epi64(lo, 32);
    c2[s] = hi, c3[s] = _mm256_srli_epi64(hi, 32);
  }
  TPO_INLINE void run(RngKey key) {
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    __m256i k0 = _mm256_set1_epi64x(static_cast<int64_t>(key.value)), k1 = _mm256_srli_epi64(k0, 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 2
      for (int s = 0; s < kSets; ++s) {
        const __m256i p0 = _mm256_mul_epu32(m0, c0[s]), p1 = _mm256_mul_epu32(m1, c2[s]);
        c0[s] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1[s]), k0);
        c2[s] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3[s]), k1);
        c1[s] = p1;
        c3[s] = p0;
      }
      k0 = _mm256_add_epi32(k0, _mm256_set1_epi64x(0x9E3779B9));
      k1 = _mm256_add_epi32(k1, _mm256_set1_epi64x(0xBB67AE85));
    }
  }
  // Words of a in the even 32-bit places, of b in the odd ones.
  TPO_INLINE static __m256i zip(__m256i a, __m256i b) { return _mm256_blend_epi32(a, _mm256_slli_epi64(b, 32), 0xaa); }
};

// words[4 b + w] = word w of philox(key, first + b, row), for `blocks` blocks, a multiple of 8.
TPO_INLINE void philox_blocks(RngKey key, uint64_t first, uint64_t row, int64_t blocks, uint32_t* words) {
  for (int64_t b = 0; b < blocks; b += 8) {
    PhiloxLanes x;
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s) {
      const auto at = static_cast<int64_t>(first) + b + 4 * s;
      x.set(s, _mm256_set_epi64x(at + 3, at + 2, at + 1, at), _mm256_set1_epi64x(static_cast<int64_t>(row)));
    }
    x.run(key);
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s) {
      const __m256i w01 = x.zip(x.c0[s], x.c1[s]), w23 = x.zip(x.c2[s], x.c3[s]);
      const __m256i even = _mm256_unpacklo_epi64(w01, w23), odd = _mm256_unpackhi_epi64(w01, w23);  // blocks 0 2, 1 3
      auto* out = reinterpret_cast<__m256i*>(words + 4 * b + 16 * s);
      _mm256_storeu_si256(out, _mm256_permute2x128_si256(even, odd, 0x20));
      _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(even, odd, 0x31));
    }
  }
}

// words[8 w + i] = word w of philox(key, block, rows[i]), i < 8.
TPO_INLINE void philox_rows(RngKey key, uint64_t block, const int64_t* rows, uint32_t* words) {
  const __m256i at = _mm256_set1_epi64x(static_cast<int64_t>(block));
  PhiloxLanes x;
  x.set(0, at, _mm256_set_epi64x(rows[6], rows[4], rows[2], rows[0]));
  x.set(1, at, _mm256_set_epi64x(rows[7], rows[5], rows[3], rows[1]));
  x.run(key);
  auto* out = reinterpret_cast<__m256i*>(words);
  _mm256_storeu_si256(out, x.zip(x.c0[0], x.c0[1]));
  _mm256_storeu_si256(out + 1, x.zip(x.c1[0], x.c1[1]));
  _mm256_storeu_si256(out + 2, x.zip(x.c2[0], x.c2[1]));
  _mm256_storeu_si256(out + 3, x.zip(x.c3[0], x.c3[1]));
}

#else

inline void philox_blocks(RngKey key, uint64_t first, uint64_t row, int64_t blocks, uint32_t* words) {
  for (int64_t b = 0; b < blocks; ++b) {
    const auto w = philox(key, first + static_cast<uint64_t>(b), row);
    std::copy(w.begin(), w.end(), words + 4 * b);
  }
}

inline void philox_rows(RngKey key, uint64_t block, const int64_t* rows, uint32_t* words) {
  for (int i = 0; i < 8; ++i) {
    const auto w = philox(key, block, static_cast<uint64_t>(rows[i]));
    for (size_t word = 0; word < 4; ++word) words[8 * word + static_cast<size_t>(i)] = w[word];
  }
}

#endif

}  // namespace tpo
