// Attention backward. With P the probabilities, recomputed from the saved log-sum-exp, and D_i = sum_d dO_id O_id:
//   dV = P^T dO,   dS = P * (dO V^T - D),   dQ = dS K * scale,   dK = dS^T Q * scale.
// With a mask M of dropout, scaled: dV = (P * M)^T dO and dS = P * (dO V^T * M - D); D is the same, as O has M in it.
// Gradients of keys and values of a (segment, key head) are summed in packed memory of a thread, in the order of
// queries. Where threads share a pair, each sums its own queries and the sums are added in the order of threads: no
// atomics, and the result depends on the number of threads only.
#include <array>
#include <memory>
#include <span>

#include "core/kernels/attention_bias.h"
#include "core/kernels/attention_drop.h"
#include "core/kernels/attention_tiles.h"
#include "core/parallel_for.h"

namespace tpo {

namespace {

using namespace attention;

constexpr int64_t kPanels = 2;  // of queries in a tile: sums over queries are then long enough for the register tile
constexpr int64_t kSide = kPanels * kPanel;
constexpr int64_t kKeys = 48;  // a multiple of kRows and 4; P and dS of a tile are 24 KiB

struct BwdState {
  int64_t wide, key_rows;
  float *keys, *values;       // panels of key_rows
  float *dk, *dv;             // panels of key_rows: sums of a pair that this thread has alone
  float *q_rows, *dout_rows;  // the tile's queries (times scale * log2 e) and dO: panels of kSide rows
  float *queries, *dout;      // the same transposed, panel by panel of queries
  float *p, *ds;              // kPanels of (kKeys, kPanel)
  float* dq;                  // panels of kSide rows
  float* mask;                // (kKeys, kPanel), with dropout
  float* bias_memory;
  alignas(64) float lse[kSide], delta[kSide];

  BwdState(const AttentionBwd& k, int64_t longest) : wide(tile::round_up(k.s.dim, kPanel)), key_rows(longest) {
    const int64_t all = wide * longest;
    scratch({{&keys, all},
             {&values, all},
             {&dk, all},
             {&dv, all},
             {&q_rows, wide * kSide},
             {&dout_rows, wide * kSide},
             {&queries, wide * kSide},
             {&dout, wide * kSide},
             {&p, kSide * kKeys},
             {&ds, kSide * kKeys},
             {&dq, wide * kSide},
             {&mask, k.drop.any() ? kPanel * kKeys : 0},
             {&bias_memory, kPanels * PanelBias::floats(k.bias, kKeys)}});
  }
};

// Sums of keys and values that wait for those of other threads. Their memory belongs to the sweep: that of a thread may
// be gone before they are joined.
struct Partial {
  Piece piece;
  float *dk = nullptr, *dv = nullptr;
  bool used = false;
};

// A thread's run has at most two pairs that it shares: the first and the last.
class Partials {
 public:
  Partials(int64_t threads, int64_t floats) : of_(static_cast<size_t>(threads > 1 ? threads : 0)) {
    memory_ = std::make_unique_for_overwrite<float[]>(of_.size() * 4 * static_cast<size_t>(floats));
    float* next = memory_.get();
    for (auto& pair : of_)
      for (Partial& p : pair) p.dk = next, p.dv = next + floats, next += 2 * floats;
  }
  // Where thread i sums a piece that is not whole. Requires: more than one thread.
  Partial& of(int64_t i, const Piece& p) {
    Partial& part = of_[static_cast<size_t>(i)][p.begin > 0 ? 0 : 1];
    part.piece = p, part.used = true;
    return part;
  }
  const std::vector<std::array<Partial, 2>>& all() const { return of_; }

 private:
  std::vector<std::array<Partial, 2>> of_;
  std::unique_ptr<float[]> memory_;
};

// P and dS of a panel of queries from scores and dO V^T; zero where masked, as far as register tiles reach.
void probabilities(const ScoreTile& t, const float* lse, const float* delta, float* p, float* ds) {
  const Vec lanes = lane_numbers();
  for (int64_t v = 0; v < t.vectors(); ++v) {
    const Vec norm = Vec::load(lse + v * kLanes), mean = Vec::load(delta + v * kLanes);
    float *pv = p + v * kLanes, *dv = ds + v * kLanes;
    const int64_t all = t.seen_by_all(v), some = t.seen_by_some(v);
    const auto row = [&](int64_t j) { return simd::exp2(Vec::load(pv + j * kPanel) - norm); };
    const auto keep = [&](int64_t j, Vec e) {
      e.store(pv + j * kPanel);
      (e * (Vec::load(dv + j * kPanel) - mean)).store(dv + j * kPanel);
    };
    for (int64_t j = 0; j < all; ++j) keep(j, row(j));
    for (int64_t j = all; j < some; ++j) keep(j, select_less(lanes, Vec(t.first_lane(v, j)), Vec::zero(), row(j)));
    for (int64_t j = some; j < std::min(kKeys, some + kRows); ++j) {
      Vec::zero().store(pv + j * kPanel);
      Vec::zero().store(dv + j * kPanel);
    }
  }
}

// out rows (keys of the tile) += scores (keys x queries) * rows (queries x width), from the first query that sees them.
void add_over_queries(const BwdState& st, const ScoreTile& t, int64_t dim, const float* scores, const float* rows,
                      float* out) {
  for (int64_t d = 0; d < tile::panels(dim); ++d)
    for (int64_t j = 0; j < t.cols; j += kRows) {
      const int64_t first = std::max<int64_t>(0, t.g.first_query(t.j0 + j) - t.i0);
      tile::multiply<Left::kRows>(std::min(kRows, t.cols - j), tile::vectors(dim, d), scores + j * kPanel,
                                  kKeys * kPanel, rows + d * kSide * kPanel, first, t.n,
                                  out + (d * st.key_rows + t.j0 + j) * kPanel, true);
    }
}

// The tile's part of dQ / scale.
void add_over_keys(const BwdState& st, const ScoreTile& t, int64_t dim) {
  for (int64_t d = 0; d < tile::panels(dim); ++d)
    for (int64_t r = 0, rows = 0; r < t.n; r += rows) {
      const int64_t in_panel = r % kPanel;
      rows = std::min({kRows, t.n - r, kPanel - in_panel});
      const int64_t depth = t.depth(r + rows);
      if (depth > 0)
        tile::multiply<Left::kColumns>(rows, tile::vectors(dim, d), st.ds + r / kPanel * kKeys * kPanel + in_panel, 0,
                                       st.keys + (d * st.key_rows + t.j0) * kPanel, 0, depth,
                                       st.dq + (d * kSide + r) * kPanel, t.j0 > 0);
    }
}

// Queries [i0, i0 + n) of one head, at most kSide.
void backward_tile(const AttentionBwd& k, BwdState& st, const Segment& g, int64_t head, int64_t i0, int64_t n,
                   float* dk, float* dv) {
  const int64_t row = g.q0 + i0, dim = k.s.dim;
  load_rows(k.q, k.turn.q, row, n, head, dim, k.s.scale * kLog2e, st.q_rows, kSide);
  load_rows(k.dout, nullptr, row, n, head, dim, 1.0f, st.dout_rows, kSide);
  std::fill(st.lse, st.lse + kSide, 0.0f);
  std::fill(st.delta, st.delta + kSide, 0.0f);
  std::copy_n(k.lse + head * k.s.q_rows + row, n, st.lse);
  dot_rows(k.out, k.dout, row, n, head, dim, st.delta);
  for (int64_t u = 0; u < n; u += kPanel) {
    transpose_panel(st.q_rows + u * kPanel, kSide, std::min(kPanel, n - u), dim, st.queries + u * st.wide);
    transpose_panel(st.dout_rows + u * kPanel, kSide, std::min(kPanel, n - u), dim, st.dout + u * st.wide);
  }
  std::vector<PanelBias> bias;
  for (int64_t u = 0; u < n && k.bias.any(); u += kPanel) {
    bias.emplace_back(k.bias, k.s.q_rows, kKeys, st.bias_memory + u / kPanel * PanelBias::floats(k.bias, kKeys));
    bias.back().begin(row + u, std::min(kPanel, n - u), head);
  }
  const int64_t seen = g.keys(i0 + n - 1);
  for (int64_t j0 = 0; j0 < seen; j0 += kKeys) {
    const ScoreTile t{g, i0, n, j0, std::min(kKeys, seen - j0)};
    for (int64_t u = 0; u < n; u += kPanel) {
      const int64_t m = std::min(kPanel, n - u);
      const ScoreTile panel{g, i0 + u, m, j0, t.depth(u + m)};
      float *p = st.p + u * kKeys, *ds = st.ds + u * kKeys;
      score_rows(panel, st.keys, st.key_rows, st.queries + u * st.wide, dim, p);
      if (k.bias.any()) bias[static_cast<size_t>(u / kPanel)].add(panel, p);
      score_rows(panel, st.values, st.key_rows, st.dout + u * st.wide, dim, ds);
      if (k.drop.any()) {
        drop_mask(k.drop, panel, head, st.mask);
        apply_mask(panel, st.mask, ds);
      }
      probabilities(panel, st.lse + u, st.delta + u, p, ds);
      if (k.drop.any()) apply_mask(panel, st.mask, p);
      if (k.dbias.any()) bias[static_cast<size_t>(u / kPanel)].add_gradient(panel, ds, k.dbias);
    }
    if (k.dk.p != nullptr) {
      add_over_queries(st, t, dim, st.p, st.dout_rows, dv);
      add_over_queries(st, t, dim, st.ds, st.q_rows, dk);
    }
    if (k.dq.p != nullptr) add_over_keys(st, t, dim);
  }
  for (const PanelBias& b : bias) b.finish(k.dbias);
  if (k.dq.p != nullptr) store_rows(st.dq, kSide, k.s.scale, k.dq, k.turn.q, row, n, head, dim, k.accumulate_q);
}

// Rows [begin, end) of a pair's gradients of keys and values. Queries carried the factor scale * log2 e.
void write_keys(const AttentionBwd& k, const Piece& p, const float* dk, const float* dv, int64_t rows, int64_t begin,
                int64_t end) {
  store_rows(dk + begin * kPanel, rows, kLn2, k.dk, k.turn.k, p.g.k0 + begin, end - begin, p.head, k.s.dim,
             k.accumulate_k);
  store_rows(dv + begin * kPanel, rows, 1.0f, k.dv, nullptr, p.g.k0 + begin, end - begin, p.head, k.s.dim,
             k.accumulate_v);
}

void load_keys(const AttentionBwd& k, const BwdState& st, const Segment& g, int64_t kv) {
  load_rows(k.k, k.turn.k, g.k0, g.lk, kv, k.s.dim, 1.0f, st.keys, st.key_rows);
  load_rows(k.v, nullptr, g.k0, g.lk, kv, k.s.dim, 1.0f, st.values, st.key_rows);
}

// One piece of thread i.
void backward_piece(const AttentionBwd& k, BwdState& st, const Piece& p, int64_t i, Partials& partials) {
  const int64_t group = k.s.q_heads / k.s.kv_heads, used = st.wide * st.key_rows;
  float *dk = st.dk, *dv = st.dv;
  if (k.dk.p != nullptr && !p.whole()) {
    const Partial& part = partials.of(i, p);
    dk = part.dk, dv = part.dv;
  }
  load_keys(k, st, p.g, p.head);
  if (k.dk.p != nullptr) {
    std::fill(dk, dk + used, 0.0f);
    std::fill(dv, dv + used, 0.0f);
  }
  for (int64_t u = p.begin; u < p.end; ++u) {
    const int64_t i0 = u % p.per_head * kSide;
    backward_tile(k, st, p.g, p.head * group + u / p.per_head, i0, std::min(kSide, p.g.lq - i0), dk, dv);
  }
  if (k.dk.p != nullptr && p.whole()) write_keys(k, p, dk, dv, st.key_rows, 0, p.g.lk);
}

// Adds the sums of one pair, in the order of threads, and writes them.
void join(const AttentionBwd& k, std::span<const Partial> parts, int64_t key_rows) {
  const Piece& p = parts[0].piece;
  parallel_for(p.g.lk, std::max<int64_t>(1, (1 << 14) / k.s.dim), [&](int64_t begin, int64_t end) {
    for (const Partial& part : parts.subspan(1))
      for (int64_t d = 0; d < tile::panels(k.s.dim); ++d) {
        const int64_t from = (d * key_rows + begin) * kPanel, n = (end - begin) * kPanel;
        for (const auto& [to, add] : {std::pair{parts[0].dk, part.dk}, {parts[0].dv, part.dv}})
          for (int64_t i = from; i < from + n; i += kLanes) (Vec::load(to + i) + Vec::load(add + i)).store(to + i);
      }
    write_keys(k, p, parts[0].dk, parts[0].dv, key_rows, begin, end);
  });
}

void main_sweep(const AttentionBwd& k) {
  const Partition parts(k.s, kSide, k.s.kv_heads, k.s.q_heads / k.s.kv_heads);
  Partials partials(parts.threads(), tile::round_up(k.s.dim, kPanel) * parts.longest());
  parallel_for(parts.threads(), 1, [&](int64_t begin, int64_t end) {
    BwdState st(k, parts.longest());
    for (const Piece& p : parts.pieces(begin, end)) backward_piece(k, st, p, begin, partials);
  });
  std::vector<Partial> open;
  for (const auto& pair : partials.all())
    for (const Partial& part : pair) {
      if (!part.used) continue;
      open.push_back(part);
      if (part.piece.end < part.piece.tiles) continue;
      join(k, open, parts.longest());
      open.clear();
    }
}

// dS summed over heads, for a bias that they share: a thread owns queries and takes the heads in order.
void bias_sweep(const AttentionBwd& k) {
  const Partition parts(k.s, kSide, 1, 1);
  parallel_for(parts.threads(), 1, [&](int64_t begin, int64_t end) {
    BwdState st(k, parts.longest());
    for (Piece& p : parts.pieces(begin, end))
      for (int64_t h = 0; h < k.s.q_heads; ++h) {
        load_keys(k, st, p.g, h / (k.s.q_heads / k.s.kv_heads));
        for (int64_t u = p.begin; u < p.end; ++u)
          backward_tile(k, st, p.g, h, u * kSide, std::min(kSide, p.g.lq - u * kSide), nullptr, nullptr);
      }
  });
}

}  // namespace

void run(const AttentionBwd& k, Cpu, Stream&) {
  AttentionBwd main = k;
  if (k.dbias.full != nullptr && !k.dbias.accumulate_full)
    std::fill_n(k.dbias.full, k.bias.heads * k.s.q_rows * k.bias.cols, 0.0f);  // also where nothing is seen
  if (k.bias_sweep()) main.dbias.full = nullptr;
  if (k.main_sweep()) main_sweep(main);
  if (!k.bias_sweep()) return;
  AttentionBwd bias = k;
  bias.dq = bias.dk = bias.dv = bias.dbias.rel_h = bias.dbias.rel_w = {};
  bias_sweep(bias);
}

}  // namespace tpo
