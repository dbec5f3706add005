#include <algorithm>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/segment.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr int64_t kTile = 512;  // columns of a tile: its sums stay in the first-level cache

// Rows [first, last) of a segment and columns [col, col + width), with `col` a multiple of kTile.
struct Piece {
  int64_t segment, first, last, col, width;
};

// Calls body(piece) over threads for every segment and tile of columns. A thread gets segments of average length.
template <class Kernel, class Body>
void for_pieces(const Kernel& k, const Body& body) {
  const int64_t tiles = (k.cols + kTile - 1) / kTile, pieces = k.segments * tiles;
  const int64_t average = std::max<int64_t>(1, k.rows * k.cols / std::max<int64_t>(1, pieces));
  parallel_for(pieces, row_grain(average, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t s = p / tiles, col = p % tiles * kTile;
      body(Piece{s, k.cu[s], k.cu[s + 1], col, std::min(kTile, k.cols - col)});
    }
  });
}

float weight(bool mean, const Piece& p) {
  return mean && p.last > p.first ? 1.0f / static_cast<float>(p.last - p.first) : 1.0f;
}

}  // namespace

void run(const SegmentSumFwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    for_pieces(k, [&](const Piece& p) {
      float sums[kTile];
      std::fill_n(sums, p.width, 0.0f);
      for (int64_t n = p.first; n < p.last; ++n) {
        const T* x = static_cast<const T*>(k.x) + n * k.cols + p.col;
#pragma omp simd
        for (int64_t c = 0; c < p.width; ++c) sums[c] += widen(x[c]);
      }
      const float alpha = weight(k.mean, p);
      T* y = static_cast<T*>(k.y) + p.segment * k.cols + p.col;
#pragma omp simd
      for (int64_t c = 0; c < p.width; ++c) y[c] = narrow<T>(alpha * sums[c]);
    });
  });
}

void run(const SegmentSumBwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    for_pieces(k, [&](const Piece& p) {
      const float alpha = weight(k.mean, p);
      const T* dy = static_cast<const T*>(k.dy) + p.segment * k.cols + p.col;
      for (int64_t n = p.first; n < p.last; ++n) {
        T* dx = static_cast<T*>(k.dx) + n * k.cols + p.col;
#pragma omp simd
        for (int64_t c = 0; c < p.width; ++c) dx[c] = narrow<T>(alpha * widen(dy[c]));
      }
    });
  });
}

void run(const SegmentMaxFwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    for_pieces(k, [&](const Piece& p) {
      float top[kTile];
      int32_t* at = k.at + p.segment * k.cols + p.col;
      std::fill_n(top, p.width, 0.0f);
      std::fill_n(at, p.width, -1);
      for (int64_t n = p.first; n < p.last; ++n) {
        const T* x = static_cast<const T*>(k.x) + n * k.cols + p.col;
        const auto row = static_cast<int32_t>(n);
        const bool first = n == p.first;
#pragma omp simd
        for (int64_t c = 0; c < p.width; ++c) {
          const float v = widen(x[c]);
          const bool take = first | (v > top[c]) | ((v != v) & (top[c] == top[c]));
          top[c] = take ? v : top[c];
          at[c] = take ? row : at[c];
        }
      }
      convert(top, static_cast<T*>(k.y) + p.segment * k.cols + p.col, p.width);
    });
  });
}

void run(const SegmentMaxBwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    for_pieces(k, [&](const Piece& p) {
      const T* dy = static_cast<const T*>(k.dy) + p.segment * k.cols + p.col;
      const int32_t* at = k.at + p.segment * k.cols + p.col;
      for (int64_t n = p.first; n < p.last; ++n) {
        T* dx = static_cast<T*>(k.dx) + n * k.cols + p.col;
        const auto row = static_cast<int32_t>(n);
#pragma omp simd
        for (int64_t c = 0; c < p.width; ++c) dx[c] = at[c] == row ? dy[c] : T(0.0f);
      }
    });
  });
}

namespace {

// kRows rows at a time, each a chain of additions: one chain alone would wait for its own last sum.
// What remains is a store an element, a cycle each: a third of the copy bandwidth in cache, at memory it is reached.
template <bool kExclusive, int kRows, class T>
void scan_rows(const T* x, T* y, int64_t length, bool reverse) {
  float sums[kRows] = {};
  const int64_t step = reverse ? -1 : 1;
  int64_t at = reverse ? length - 1 : 0;
  for (int64_t i = 0; i < length; ++i, at += step) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const float before = sums[r];
      sums[r] += widen(x[r * length + at]);
      y[r * length + at] = narrow<T>(kExclusive ? before : sums[r]);
    }
  }
}

// Along rows: a tile of columns holds its sums.
template <bool kExclusive, class T>
void scan_columns(const T* x, T* y, const CumSum& k, int64_t width) {
  float sums[kTile] = {};
  for (int64_t i = 0; i < k.length; ++i) {
    const int64_t at = (k.reverse ? k.length - 1 - i : i) * k.inner;
    const T* from = x + at;
    T* to = y + at;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) {
      const float before = sums[c], now = before + widen(from[c]);
      to[c] = narrow<T>(kExclusive ? before : now);
      sums[c] = now;
    }
  }
}

template <bool kExclusive, class T>
void cumsum(const CumSum& k, const T* x, T* y) {
  constexpr int64_t kChains = 4;  // additions take 4 cycles; more rows at once would fight for places in the cache
  const int64_t row = k.length * k.inner, tiles = (k.inner + kTile - 1) / kTile;
  if (k.inner == 1)
    return parallel_for(k.outer, row_grain(row, kLightGrain), [&](int64_t begin, int64_t end) {
      int64_t o = begin;
      for (; o + kChains <= end; o += kChains)
        scan_rows<kExclusive, kChains>(x + o * row, y + o * row, k.length, k.reverse);
      for (; o < end; ++o) scan_rows<kExclusive, 1>(x + o * row, y + o * row, k.length, k.reverse);
    });
  parallel_for(k.outer * tiles, row_grain(k.length * kTile, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t col = p % tiles * kTile, at = p / tiles * row + col;
      scan_columns<kExclusive>(x + at, y + at, k, std::min(kTile, k.inner - col));
    }
  });
}

}  // namespace

void run(const CumSum& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    const T* x = static_cast<const T*>(k.x);
    T* y = static_cast<T*>(k.y);
    k.exclusive ? cumsum<true>(k, x, y) : cumsum<false>(k, x, y);
  });
}

}  // namespace tpo
