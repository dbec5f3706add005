#pragma once
// Small register-tiled products inside a kernel: up to 6 rows x 16 columns at a time, the right operand packed in
// panels of 16 columns so that its loads are contiguous. Attention is made of these. One thread; padded columns hold
// zeros.
#include "core/kernels/simd.h"

namespace tpo::tile {

inline constexpr int64_t kRows = 6;    // 6 x 2 vectors of sums + 2 of b + 1 of a fill the 16 registers of AVX2
inline constexpr int64_t kPanel = 16;  // columns of a panel

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// How the left operand lies: element (i, k) is a[i * stride + k] or, used transposed, a[k * stride + i].
enum class Left { kRows, kColumns };

// Not inlined: the loop needs all registers, which a caller's loop variables would take.
template <Left kLeft, int kR>
[[gnu::noinline]] void multiply_rows(const float* a, int64_t stride, const float* panel, int64_t depth, float* c,
                                     int64_t c_row, bool accumulate) {
  using simd::F8;
  F8 lo[kR], hi[kR];
#pragma GCC unroll 6
  for (int i = 0; i < kR; ++i) {
    lo[i] = accumulate ? F8::load(c + i * c_row) : F8::zero();
    hi[i] = accumulate ? F8::load(c + i * c_row + 8) : F8::zero();
  }
  for (int64_t k = 0; k < depth; ++k) {
    const F8 b0 = F8::load(panel + k * kPanel), b1 = F8::load(panel + k * kPanel + 8);
#pragma GCC unroll 6
    for (int i = 0; i < kR; ++i) {
      const F8 x(kLeft == Left::kRows ? a[i * stride + k] : a[k * stride + i]);
      lo[i] = fma(x, b0, lo[i]);
      hi[i] = fma(x, b1, hi[i]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kR; ++i) {
    lo[i].store(c + i * c_row);
    hi[i].store(c + i * c_row + 8);
  }
}

// c (rows x 16) (+)= a (rows x depth) * panel (depth x 16), rows in 1..6.
template <Left kLeft>
inline void multiply(int64_t rows, const float* a, int64_t stride, const float* panel, int64_t depth, float* c,
                     int64_t c_row, bool accumulate) {
  switch (rows) {
    case 6:
      return multiply_rows<kLeft, 6>(a, stride, panel, depth, c, c_row, accumulate);
    case 5:
      return multiply_rows<kLeft, 5>(a, stride, panel, depth, c, c_row, accumulate);
    case 4:
      return multiply_rows<kLeft, 4>(a, stride, panel, depth, c, c_row, accumulate);
    case 3:
      return multiply_rows<kLeft, 3>(a, stride, panel, depth, c, c_row, accumulate);
    case 2:
      return multiply_rows<kLeft, 2>(a, stride, panel, depth, c, c_row, accumulate);
    default:
      return multiply_rows<kLeft, 1>(a, stride, panel, depth, c, c_row, accumulate);
  }
}

// Panels over columns: out[p][r][j] = src[r * row_stride + 16 p + j], zero beyond `cols`.
// out holds round_up(cols, 16) * rows floats; panel p starts at out + 16 * p * rows.
inline void pack_columns(const float* src, int64_t row_stride, int64_t rows, int64_t cols, float* out) {
  for (int64_t p = 0; p < cols; p += kPanel, out += kPanel * rows) {
    const int64_t n = cols - p < kPanel ? cols - p : kPanel;
    for (int64_t r = 0; r < rows; ++r) {
      const float* s = src + r * row_stride + p;
      float* o = out + r * kPanel;
      if (n == kPanel) {
        simd::F8::load(s).store(o);
        simd::F8::load(s + 8).store(o + 8);
      } else {
        for (int64_t j = 0; j < kPanel; ++j) o[j] = j < n ? s[j] : 0;
      }
    }
  }
}

// Panels over rows, transposed: out[p][d][j] = src[(16 p + j) * row_stride + d], zero beyond `rows`.
// out holds round_up(rows, 16) * cols floats; panel p starts at out + 16 * p * cols.
inline void pack_transposed(const float* src, int64_t row_stride, int64_t rows, int64_t cols, float* out) {
  for (int64_t p = 0; p < rows; p += kPanel, out += kPanel * cols) {
    for (int64_t j = 0; j < kPanel; j += 8) {
      const int64_t n = rows - p - j;
      const float* s = src + (p + j) * row_stride;
      int64_t d = 0;
      if (n >= 8) {
        for (; d + 8 <= cols; d += 8) simd::transpose8(s + d, row_stride, out + d * kPanel + j, kPanel);
      }
      for (; d < cols; ++d)
        for (int64_t i = 0; i < 8; ++i) out[d * kPanel + j + i] = i < n ? s[i * row_stride + d] : 0;
    }
  }
}

}  // namespace tpo::tile
