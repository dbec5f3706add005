// op(b) is packed by pieces of kDepth rows and kWidth columns into panels two vectors wide, which stay in the second
// level of cache. A tile of kRows rows by one panel keeps its sums in registers over the depth of the piece; the panel
// then lies in the first level, since a block of rows goes through one panel after the other. Rows of a are read where
// they are; the columns of a transposed one, which may be pages apart, are packed first.
#include "core/kernels/gemm_panels.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "core/kernels/gemm_tile.h"
#include "core/parallel_for.h"

namespace tpo {

namespace {

using simd::Vec;
using tile::kLanes;
using tile::kPanel;
using tile::kRows;

constexpr int64_t kDepth = 256;                           // a panel of 32 KiB with vectors of 512 bits
constexpr int64_t kWidth = 16 * kPanel;                   // 512 KiB of packed b
constexpr int64_t kBlock = 12 * kRows;                    // rows that go through all panels together
constexpr int64_t kPanelSize = kDepth * kPanel + kPanel;  // panels do not begin at the same place of a page
constexpr int64_t kAhead = 32;                            // rows of b, half a thousand cycles
constexpr int64_t kFewRows = 4 * kRows;                   // up to here packing b costs more than reading it a row apart
constexpr int64_t kTile = kDepth * kRows + 2 * kLanes;    // of packed a; tiles do not begin at the same place of a page

struct Free {
  void operator()(float* p) const { std::free(p); }
};
// Of this thread: packed b, then packed a.
float* scratch() {
  thread_local const std::unique_ptr<float, Free> memory(static_cast<float*>(
      std::aligned_alloc(64, (kWidth / kPanel * kPanelSize + kBlock / kRows * kTile) * sizeof(float))));
  if (memory == nullptr) throw std::bad_alloc();
  return memory.get();
}

// A piece of the result: c = alpha a b + beta c.
struct Factors {
  float alpha, beta;
};

// kR rows and kV vectors of c from `depth` terms. Element (i, k) of a is a[i * lda + k], or a[k * kRows + i] if packed;
// row k of b starts at b + k * ldb.
template <bool kPacked, int kR, int kV>
[[gnu::noinline]] void tile_product(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t depth, Factors f,
                                    float* c, int64_t ldc) {
  Vec sum[kR][kV];
#pragma GCC unroll 16
  for (int i = 0; i < kR; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) sum[i][v] = Vec::zero();
  }
  // Three rows at a pointer: with one pointer a row there would be too few registers.
  const float* rows[(kR + 2) / 3];
#pragma GCC unroll 8
  for (int i = 0; i < (kR + 2) / 3; ++i) rows[i] = a + (kPacked ? 0 : 3 * i * lda);
  for (int i = 0; i < kR; ++i) {
    __builtin_prefetch(c + i * ldc, 1);
    if (kV == 2) __builtin_prefetch(c + i * ldc + kLanes, 1);
  }
  for (int64_t k = 0; k < depth; ++k, b += ldb) {
    __builtin_prefetch(b + kAhead * ldb);
    if (kV == 2) __builtin_prefetch(b + kAhead * ldb + kLanes);
    Vec right[kV];
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) right[v] = Vec::load(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kR; ++i) {
      const Vec left(kPacked ? a[k * kRows + i] : rows[i / 3][i % 3 * lda + k]);
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) sum[i][v] = fma(left, right[v], sum[i][v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kR; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) {
      float* to = c + i * ldc + v * kLanes;
      const Vec alpha(f.alpha);
      (f.beta == 0 ? alpha * sum[i][v] : fma(alpha, sum[i][v], Vec(f.beta) * Vec::load(to))).store(to);
    }
  }
}

template <bool kPacked, int kR = kRows>
void tile_rows(int64_t rows, int64_t vectors, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t depth,
               Factors f, float* c, int64_t ldc) {
  if constexpr (kR > 1) {
    if (rows < kR) return tile_rows<kPacked, kR - 1>(rows, vectors, a, lda, b, ldb, depth, f, c, ldc);
  }
  if (vectors == 2) return tile_product<kPacked, kR, 2>(a, lda, b, ldb, depth, f, c, ldc);
  tile_product<kPacked, kR, 1>(a, lda, b, ldb, depth, f, c, ldc);
}

// out[k][j] = b[j][k] for j in 0..cols of a panel, zero beyond.
void pack_transposed(const float* b, int64_t ldb, int64_t depth, int64_t cols, float* out) {
  int64_t j = 0;
  for (; j + 8 <= cols; j += 8) {
    int64_t k = 0;
    for (; k + 8 <= depth; k += 8) simd::transpose8(b + j * ldb + k, ldb, out + k * kPanel + j, kPanel);
    for (; k < depth; ++k)
      for (int64_t i = j; i < j + 8; ++i) out[k * kPanel + i] = b[i * ldb + k];
  }
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t i = j; i < kPanel; ++i) out[k * kPanel + i] = i < cols ? b[i * ldb + k] : 0.0f;
  }
}

// Panels of `cols` columns of b, kPanelSize apart, row by row as they lie in memory.
void pack_rows(const float* b, int64_t ldb, int64_t depth, int64_t cols, float* out) {
  for (int64_t k = 0; k < depth; ++k, b += ldb, out += kPanel) {
    int64_t j = 0;
    float* to = out;
    for (; j + kPanel <= cols; j += kPanel, to += kPanelSize) {
      Vec::load(b + j).store(to);
      Vec::load(b + j + kLanes).store(to + kLanes);
    }
    if (j < cols) std::fill(std::copy_n(b + j, cols - j, to), to + kPanel, 0.0f);
  }
}

// Tiles of kRows columns of a transposed a, each (depth, kRows), kTile apart.
void pack_columns(const float* a, int64_t lda, int64_t depth, int64_t cols, float* out) {
  for (int64_t k = 0; k < depth; ++k, a += lda, out += kRows) {
    int64_t i = 0;
    float* to = out;
    for (; i + kRows <= cols; i += kRows, to += kTile) std::copy_n(a + i, kRows, to);
    std::copy_n(a + i, cols - i, to);
  }
}

// The operands as the tiles see them. Element (i, j) of c is c[i * c_row + j * c_col].
struct Product {
  const float *a, *b;
  float* c;
  int64_t m, n, k, lda, ldb, c_row, c_col;
  bool trans_a, trans_b;
  Factors f;

  explicit Product(const Gemm& g)
      : a(static_cast<const float*>(g.a)),
        b(static_cast<const float*>(g.b)),
        c(static_cast<float*>(g.c)),
        m(g.m),
        n(g.n),
        k(g.k),
        lda(g.trans_a ? g.m : g.k),
        ldb(g.trans_b ? g.k : g.n),
        c_row(g.n),
        c_col(1),
        trans_a(g.trans_a),
        trans_b(g.trans_b),
        f{g.alpha, g.beta} {
    // A tall result of few columns from a transposed a is made as its transpose, op(b)^T times a as it lies: whole
    // vectors, and a is read once where it is.
    if (n > kRows || m <= n || !trans_a) return;
    std::swap(a, b), std::swap(m, n), std::swap(lda, ldb), std::swap(c_row, c_col);
    trans_a = !trans_b, trans_b = false;
  }
};

// Rows [m0, m1) and columns [n0, n1) of the result on this thread; n0 is a multiple of kPanel.
class Part {
 public:
  Part(const Product& p, int64_t m0, int64_t m1, int64_t n0, int64_t n1)
      : p_(p),
        m0_(m0),
        m1_(m1),
        n0_(n0),
        n1_(n1),
        in_place_(!p.trans_b && m1 - m0 <= kFewRows),
        packed_b_(scratch()),
        packed_a_(packed_b_ + kWidth / kPanel * kPanelSize) {}

  void run() const {
    for (int64_t j = n0_; j < n1_; j += kWidth) {
      const int64_t width = std::min(kWidth, n1_ - j);
      for (int64_t k = 0; k < p_.k; k += kDepth) {
        const int64_t depth = std::min(kDepth, p_.k - k);
        pack_b(k, depth, j, width);
        for (int64_t i = m0_; i < m1_; i += kBlock)
          p_.trans_a ? block<true>(i, k, depth, j, width) : block<false>(i, k, depth, j, width);
      }
    }
  }

 private:
  void pack_b(int64_t k, int64_t depth, int64_t j0, int64_t width) const {
    if (!p_.trans_b) {
      const int64_t skip = in_place_ ? width / kPanel * kPanel : 0;  // whole panels are read where they are
      return pack_rows(p_.b + k * p_.ldb + j0 + skip, p_.ldb, depth, width - skip, panel(skip));
    }
    for (int64_t j = 0; j < width; j += kPanel)
      pack_transposed(p_.b + (j0 + j) * p_.ldb + k, p_.ldb, depth, std::min(kPanel, width - j), panel(j));
  }
  float* panel(int64_t j) const { return packed_b_ + j / kPanel * kPanelSize; }

  template <bool kPacked>
  void block(int64_t i0, int64_t k, int64_t depth, int64_t j0, int64_t width) const {
    const int64_t rows = std::min(kBlock, m1_ - i0);
    if (kPacked) pack_columns(p_.a + k * p_.lda + i0, p_.lda, depth, rows, packed_a_);
    for (int64_t j = 0; j < width; j += kPanel) {
      const int64_t cols = std::min(kPanel, width - j);
      const bool packed = !in_place_ || cols < kPanel;
      const float* b = packed ? panel(j) : p_.b + k * p_.ldb + j0 + j;
      for (int64_t i = 0; i < rows; i += kRows) {
        if (!kPacked && j == 0) prefetch_rows(i0 + i + kRows, k, depth);
        const float* a = kPacked ? packed_a_ + i / kRows * kTile : p_.a + (i0 + i) * p_.lda + k;
        tile<kPacked>(i0 + i, std::min(kRows, rows - i), j0 + j, cols, a, b, packed ? kPanel : p_.ldb, k, depth);
      }
    }
  }

  // The tile after this one, to be there when the first panel comes to it.
  void prefetch_rows(int64_t i, int64_t k, int64_t depth) const {
    for (int64_t r = i; r < std::min(i + kRows, m1_); ++r)
      for (int64_t d = 0; d < depth; d += 16) __builtin_prefetch(p_.a + r * p_.lda + k + d);
  }

  // Rows [i, i + rows) and columns [j, j + cols) from terms [k, k + depth). Where the last vector would go beyond the
  // columns, or a row of the result is not one of memory, the sums go through a tile of their own.
  template <bool kPacked>
  void tile(int64_t i, int64_t rows, int64_t j, int64_t cols, const float* a, const float* b, int64_t ldb, int64_t k,
            int64_t depth) const {
    const Factors f{p_.f.alpha, k == 0 ? p_.f.beta : 1.0f};
    float* c = p_.c + i * p_.c_row + j * p_.c_col;
    const int64_t vectors = (cols + kLanes - 1) / kLanes;
    if (p_.c_col == 1 && cols % kLanes == 0)
      return tile_rows<kPacked>(rows, vectors, a, p_.lda, b, ldb, depth, f, c, p_.c_row);
    alignas(64) float sums[kRows * kPanel];
    tile_rows<kPacked>(rows, vectors, a, p_.lda, b, ldb, depth, {1, 0}, sums, kPanel);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t s = 0; s < cols; ++s) {
        float& to = c[r * p_.c_row + s * p_.c_col];
        const float sum = sums[r * kPanel + s];
        to = f.beta == 0 ? f.alpha * sum : std::fma(f.alpha, sum, f.beta * to);
      }
    }
  }

  const Product& p_;
  int64_t m0_, m1_, n0_, n1_;
  bool in_place_;
  float *packed_b_, *packed_a_;
};

}  // namespace

void multiply_panels(const Gemm& g, bool threads) {
  const Product p(g);
  const int64_t tiles = (p.m + kRows - 1) / kRows, panels = tile::panels(p.n);
  const int64_t team = threads ? num_threads() : 1;
  if (team == 1) return Part(p, 0, p.m, 0, p.n).run();
  // By columns, so that no two threads pack the same of b, unless these are too few to be shared evenly.
  if (panels % team == 0 || panels >= 4 * team) {
    parallel_for(panels, 1, [&](int64_t begin, int64_t end) {
      Part(p, 0, p.m, begin * kPanel, std::min(p.n, end * kPanel)).run();
    });
  } else {
    parallel_for(tiles, 1,
                 [&](int64_t begin, int64_t end) { Part(p, begin * kRows, std::min(p.m, end * kRows), 0, p.n).run(); });
  }
}

}  // namespace tpo
