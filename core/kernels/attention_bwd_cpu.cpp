// Attention backward. With P the probabilities, recomputed from the saved log-sum-exp, and D_i = sum_d dO_id O_id:
//   dV = P^T dO,   dS = P * (dO V^T - D) * scale,   dQ = dS K,   dK = dS^T Q.
// Tiles of 48 x 48 scores; the gradients of keys and values of one head group are summed in packed scratch memory by
// one thread, in the order of queries: no atomics, and the result does not depend on threads.
#include "core/kernels/attention_tiles.h"

namespace tpo {

namespace {

using namespace attention;

constexpr int64_t kSide = 48;  // a multiple of 6 rows and of 16 columns

struct BwdState {
  int64_t dim, wide;
  Scratch memory;
  float *keys_t, *values_t, *keys;  // K^T and V^T in panels of keys, K in panels of width
  float *dk, *dv;                   // (lk, wide)
  float *queries, *dout;            // this tile's Q and dO in panels of width
  float *p, *ds;                    // (48, 48)
  float* dq;                        // (48, wide)

  BwdState(int64_t d, int64_t longest)
      : dim(d),
        wide(tile::round_up(d, tile::kPanel)),
        memory((2 * dim + 3 * wide) * tile::round_up(longest, tile::kPanel) + kSide * (2 * kSide + 3 * wide) + 256) {
    const int64_t keys_wide = tile::round_up(longest, tile::kPanel);
    keys_t = memory.take(dim * keys_wide);
    values_t = memory.take(dim * keys_wide);
    keys = memory.take(wide * longest);
    dk = memory.take(wide * longest);
    dv = memory.take(wide * longest);
    queries = memory.take(kSide * wide);
    dout = memory.take(kSide * wide);
    p = memory.take(kSide * kSide);
    ds = memory.take(kSide * kSide);
    dq = memory.take(kSide * wide);
  }
};

// Rows [i0, i0+n) of one head and where they are.
struct QueryTile {
  const float *q, *dout;
  const float* lse;
  float delta[kSide];
  int64_t i0, n;
};

// P and dS of the tile (query rows) x (keys j0 .. j0+cols); zero where masked.
void probabilities(const AttentionBwd& k, BwdState& st, const Segment& g, const QueryTile& t, int64_t j0,
                   int64_t cols) {
  const F8 scale(k.s.scale);
  const int64_t full = tile::round_up(cols, 8);
  for (int64_t r = 0; r < t.n; r += tile::kRows) {
    const int64_t rows = std::min(tile::kRows, t.n - r);
    const int64_t seen = std::min(cols, g.keys(k.s.causal, t.i0 + r + rows - 1, g.lk) - j0);
    float *p = st.p + r * kSide, *ds = st.ds + r * kSide;
    for (int64_t c = 0; c < seen; c += tile::kPanel) {
      const int64_t panel = (j0 + c) * st.dim;
      tile::multiply<Left::kRows>(rows, t.q + r * k.q.row, k.q.row, st.keys_t + panel, st.dim, p + c, kSide, false);
      tile::multiply<Left::kRows>(rows, t.dout + r * k.dout.row, k.dout.row, st.values_t + panel, st.dim, ds + c, kSide,
                                  false);
    }
    for (int64_t i = 0; i < rows; ++i, p += kSide, ds += kSide) {
      const int64_t valid = std::clamp<int64_t>(g.keys(k.s.causal, t.i0 + r + i, g.lk) - j0, 0, cols);
      const F8 lse(-t.lse[r + i]), delta(t.delta[r + i]);
      for (int64_t j = 0; j < valid; j += 8) {
        const F8 e = simd::exp(fma(F8::load(p + j), scale, lse));
        e.store(p + j);
        (e * scale * (F8::load(ds + j) - delta)).store(ds + j);
      }
      std::fill(p + valid, p + full, 0.0f);
      std::fill(ds + valid, ds + full, 0.0f);
    }
  }
}

// out rows (keys j0 ..) += scores^T (keys x queries) * panels (queries x width), from the first query that sees the
// key.
void add_transposed(const BwdState& st, const float* scores, const float* panels, int64_t n, int64_t cols,
                    int64_t first_query, float* out) {
  for (int64_t j = 0; j < cols; j += tile::kRows) {
    const int64_t rows = std::min(tile::kRows, cols - j), start = std::max<int64_t>(0, first_query + j);
    if (start >= n) break;
    for (int64_t d = 0; d < st.dim; d += tile::kPanel)
      tile::multiply<Left::kColumns>(rows, scores + start * kSide + j, kSide, panels + d * n + start * tile::kPanel,
                                     n - start, out + j * st.wide + d, st.wide, true);
  }
}

void backward_tile(const AttentionBwd& k, BwdState& st, const Segment& g, int64_t head, int64_t i0, int64_t n) {
  const int64_t row = g.q0 + i0;
  QueryTile t{k.q.at(row, head), k.dout.at(row, head), k.lse + head * k.s.q_rows + row, {}, i0, n};
  for (int64_t i = 0; i < n; ++i) {
    const float *o = k.out.at(row + i, head), *d = k.dout.at(row + i, head);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < st.dim; ++c) sum += o[c] * d[c];
    t.delta[i] = sum;
  }
  const bool want_k = k.dk.p != nullptr, want_q = k.dq.p != nullptr;
  if (want_k) {
    tile::pack_columns(t.q, k.q.row, n, st.dim, st.queries);
    tile::pack_columns(t.dout, k.dout.row, n, st.dim, st.dout);
  }
  if (want_q) std::fill(st.dq, st.dq + n * st.wide, 0.0f);
  const int64_t seen = g.keys(k.s.causal, i0 + n - 1, g.lk);
  for (int64_t j0 = 0; j0 < seen; j0 += kSide) {
    const int64_t cols = std::min(kSide, seen - j0);
    probabilities(k, st, g, t, j0, cols);
    for (int64_t r = 0; want_q && r < n; r += tile::kRows) {
      const int64_t rows = std::min(tile::kRows, n - r);
      const int64_t depth = std::min(cols, g.keys(k.s.causal, i0 + r + rows - 1, g.lk) - j0);
      for (int64_t d = 0; depth > 0 && d < st.dim; d += tile::kPanel)
        tile::multiply<Left::kRows>(rows, st.ds + r * kSide, kSide, st.keys + d * g.lk + j0 * tile::kPanel, depth,
                                    st.dq + r * st.wide + d, st.wide, true);
    }
    if (want_k) {
      const int64_t first = k.s.causal ? j0 - (g.lk - g.lq) - i0 : -cols;
      add_transposed(st, st.p, st.dout, n, cols, first, st.dv + j0 * st.wide);
      add_transposed(st, st.ds, st.queries, n, cols, first, st.dk + j0 * st.wide);
    }
  }
  for (int64_t i = 0; want_q && i < n; ++i) {
    float* out = k.dq.at(row + i, head);
    for (int64_t d = 0; d < st.dim; ++d) out[d] = st.dq[i * st.wide + d] + (k.accumulate_q ? out[d] : 0.0f);
  }
}

void write_rows(const BwdState& st, const float* from, const HeadView<float>& to, int64_t k0, int64_t rows,
                int64_t head, bool accumulate) {
  for (int64_t r = 0; r < rows; ++r) {
    float* out = to.at(k0 + r, head);
    for (int64_t d = 0; d < st.dim; ++d) out[d] = from[r * st.wide + d] + (accumulate ? out[d] : 0.0f);
  }
}

}  // namespace

void run(const AttentionBwd& k, Cpu, Stream&) {
  const int64_t group = k.s.q_heads / k.s.kv_heads;
  for_segment_heads(
      k.s, [&](int64_t longest) { return BwdState(k.s.dim, longest); },
      [&](BwdState& st, const Segment& g, int64_t kv) {
        tile::pack_transposed(k.k.at(g.k0, kv), k.k.row, g.lk, st.dim, st.keys_t);
        tile::pack_transposed(k.v.at(g.k0, kv), k.v.row, g.lk, st.dim, st.values_t);
        if (k.dq.p != nullptr) tile::pack_columns(k.k.at(g.k0, kv), k.k.row, g.lk, st.dim, st.keys);
        std::fill(st.dk, st.dk + g.lk * st.wide, 0.0f);
        std::fill(st.dv, st.dv + g.lk * st.wide, 0.0f);
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h)
          for (int64_t i = 0; i < g.lq; i += kSide) backward_tile(k, st, g, h, i, std::min(kSide, g.lq - i));
        if (k.dk.p == nullptr) return;
        write_rows(st, st.dk, k.dk, g.k0, g.lk, kv, k.accumulate_k);
        write_rows(st, st.dv, k.dv, g.k0, g.lk, kv, k.accumulate_v);
      });
}

}  // namespace tpo
