#include <algorithm>
#include <cmath>

#include "core/kernels/dropout.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/simd.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr int64_t kBlocks = 32;  // Philox blocks a call, 128 columns

// words[4 b + w] = word w of philox(key, first + b, row) of core/rng.h.
#ifdef TPO_AVX2
// Four blocks a register, one to a 64-bit lane, and two registers at a time to overlap their chains. Only the lower
// half of a lane is a word: the multiplication reads no more, so what is left in the upper half does no harm.
void philox_blocks(RngKey key, uint64_t first, uint64_t row, uint32_t* words) {
  constexpr int kSets = 2;
  const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
  for (int64_t b = 0; b < kBlocks; b += 4 * kSets) {
    __m256i c0[kSets], c1[kSets], c2[kSets], c3[kSets];
#pragma GCC unroll 2
    for (int s = 0; s < kSets; ++s) {
      const auto at = static_cast<int64_t>(first) + b + 4 * s;
      c0[s] = _mm256_set_epi64x(at + 3, at + 2, at + 1, at);
      c1[s] = _mm256_srli_epi64(c0[s], 32);
      c2[s] = _mm256_set1_epi64x(static_cast<int64_t>(row));
      c3[s] = _mm256_srli_epi64(c2[s], 32);
    }
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
#pragma GCC unroll 2
    for (int s = 0; s < kSets; ++s) {
      const __m256i w01 = _mm256_blend_epi32(c0[s], _mm256_slli_epi64(c1[s], 32), 0xaa);
      const __m256i w23 = _mm256_blend_epi32(c2[s], _mm256_slli_epi64(c3[s], 32), 0xaa);
      const __m256i even = _mm256_unpacklo_epi64(w01, w23), odd = _mm256_unpackhi_epi64(w01, w23);  // blocks 0 2, 1 3
      auto* out = reinterpret_cast<__m256i*>(words + 4 * b + 16 * s);
      _mm256_storeu_si256(out, _mm256_permute2x128_si256(even, odd, 0x20));
      _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(even, odd, 0x31));
    }
  }
}
#else
void philox_blocks(RngKey key, uint64_t first, uint64_t row, uint32_t* words) {
  for (int64_t b = 0; b < kBlocks; ++b) {
    const auto w = philox(key, first + static_cast<uint64_t>(b), row);
    std::copy(w.begin(), w.end(), words + 4 * b);
  }
}
#endif

template <class T>
void drop(const Dropout& k, int64_t begin, int64_t end) {
  // uniform01(word) >= p compared as integers: both sides are exact multiples of 2^-24 after rounding p up.
  const int32_t limit = static_cast<int32_t>(std::ceil(static_cast<double>(k.p) * 0x1p24));
  const float keep = 1.0f / (1.0f - k.p);
  uint32_t words[4 * kBlocks];
  for (int64_t r = begin; r < end; ++r) {
    const T* x = static_cast<const T*>(k.x) + r * k.cols;
    T* y = static_cast<T*>(k.y) + r * k.cols;
    if (k.whole_rows) {
      const uint32_t word = philox(k.key, 0, static_cast<uint64_t>(k.row_ids[r]))[0];
      const bool kept = static_cast<int32_t>(word >> 8) >= limit;
#pragma omp simd
      for (int64_t c = 0; c < k.cols; ++c) y[c] = narrow<T>(kept ? widen(x[c]) * keep : 0.0f);
      continue;
    }
    // The first block may begin before the columns held here.
    for (int64_t c0 = -(k.first_col % 4); c0 < k.cols; c0 += 4 * kBlocks) {
      philox_blocks(k.key, static_cast<uint64_t>((k.first_col + c0) / 4), static_cast<uint64_t>(k.row_ids[r]), words);
      const int64_t skip = std::max<int64_t>(0, -c0), width = std::min(4 * kBlocks, k.cols - c0);
#pragma omp simd
      for (int64_t c = skip; c < width; ++c)
        y[c0 + c] = narrow<T>(static_cast<int32_t>(words[c] >> 8) >= limit ? widen(x[c0 + c]) * keep : 0.0f);
    }
  }
}

}  // namespace

void run(const Dropout& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.cols, kHeavyGrain), [&](int64_t begin, int64_t end) { drop<T>(k, begin, end); });
  });
}

}  // namespace tpo
