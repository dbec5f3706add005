#pragma once
// Small register-tiled products inside a kernel; attention is made of these. One thread.
// A matrix (rows, cols) lies in panels: [ceil(cols / kPanel)][rows][kPanel]. Then the right operand of a product is
// read in whole vectors and the left one, as it is or transposed, at constant distances: all addresses of a step are
// one pointer and constants. Padding beyond `cols` holds anything finite.
#include "core/kernels/simd.h"

namespace tpo::tile {

inline constexpr int64_t kLanes = simd::kLanes;
inline constexpr int64_t kPanel = 2 * kLanes;
// AVX2: 6 x 2 vectors of sums, 2 of b and 1 of a fill the 16 registers. AVX-512: 6 to 14 rows measure alike within 2 %
// (bench/results/ops.md), and 8 divides the sides of all tiles.
inline constexpr int64_t kRows = kLanes == 16 ? 8 : 6;

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
constexpr int64_t panels(int64_t cols) { return (cols + kPanel - 1) / kPanel; }
// Vectors of panel p that hold columns.
constexpr int64_t vectors(int64_t cols, int64_t p) { return cols - p * kPanel > kLanes ? 2 : 1; }

// How the left operand lies. kRows: element (i, k) is a[k / kPanel * a_panel + i * kPanel + k % kPanel], where a_panel
// is the size of its panels; kColumns: the transpose of one panel, (i, k) is a[k * kPanel + i].
enum class Left { kRows, kColumns };

// Not inlined: the loop needs all registers, which a caller's loop variables would take.
template <Left kLeft, int kR, int kV>
[[gnu::noinline]] void multiply_rows(const float* a, int64_t a_panel, const float* b, int64_t begin, int64_t end,
                                     float* c, bool accumulate) {
  using simd::Vec;
  Vec sum[kR][kV];
#pragma GCC unroll 16
  for (int i = 0; i < kR; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) sum[i][v] = accumulate ? Vec::load(c + i * kPanel + v * kLanes) : Vec::zero();
  }
  b += begin * kPanel;
  for (int64_t k = begin; k < end;) {
    const int64_t part = kLeft == Left::kRows ? k % kPanel : 0;
    const float* x = kLeft == Left::kRows ? a + k / kPanel * a_panel + part : a + k * kPanel;
    const int64_t left = end - k, n = kLeft == Left::kRows && left > kPanel - part ? kPanel - part : left;
    k += n;
    for (int64_t s = 0; s < n; ++s, b += kPanel, x += kLeft == Left::kRows ? 1 : kPanel) {
      Vec right[kV];
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) right[v] = Vec::load(b + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kR; ++i) {
        const Vec l(kLeft == Left::kRows ? x[i * kPanel] : x[i]);
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) sum[i][v] = fma(l, right[v], sum[i][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kR; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) sum[i][v].store(c + i * kPanel + v * kLanes);
  }
}

// c (rows x vecs vectors, of a panel) (+)= a (rows x ..) * b (.. x a panel) over k in [begin, end); rows in 1..kRows,
// vecs 1 or 2. Row i of c starts at c + i * kPanel, row k of b at b + k * kPanel.
template <Left kLeft, int kR = kRows>
inline void multiply(int64_t rows, int64_t vecs, const float* a, int64_t a_panel, const float* b, int64_t begin,
                     int64_t end, float* c, bool accumulate) {
  if constexpr (kR > 1) {
    if (rows < kR) return multiply<kLeft, kR - 1>(rows, vecs, a, a_panel, b, begin, end, c, accumulate);
  }
  if (vecs == 2) return multiply_rows<kLeft, kR, 2>(a, a_panel, b, begin, end, c, accumulate);
  multiply_rows<kLeft, kR, 1>(a, a_panel, b, begin, end, c, accumulate);
}

}  // namespace tpo::tile
