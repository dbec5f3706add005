// Attention forward. A thread packs keys and values of a (segment, key head) once for all its query heads. Then, for a
// panel of queries at a time, scores of up to 96 keys stay in the first-level cache between their two products; row
// maxima and sums are carried from tile to tile.
#include <cmath>

#include "core/kernels/attention_bias.h"
#include "core/kernels/attention_drop.h"
#include "core/kernels/attention_few.h"
#include "core/kernels/attention_tiles.h"
#include "core/parallel_for.h"

namespace tpo {

namespace {

using namespace attention;

constexpr int64_t kKeys = 96;   // a multiple of kRows and 4; with 32 queries 12 KiB of scores
constexpr float kLow = -1e30f;  // below every score; finite, so that differences of maxima are no NaN

struct FwdState {
  int64_t wide;  // head width rounded up to panels
  int64_t key_rows;
  float *keys, *values;     // panels of key_rows
  float *q_rows, *queries;  // a panel of queries as rows and transposed
  float* scores;            // (kKeys, kPanel)
  float* acc;               // panels of kPanel rows
  float* mask;              // as scores, with dropout
  float* bias_memory;
  alignas(64) float top[kPanel], sum[kPanel];

  FwdState(const AttentionFwd& k, int64_t longest) : wide(tile::round_up(k.s.dim, kPanel)), key_rows(longest) {
    scratch({{&keys, wide * longest},
             {&values, wide * longest},
             {&q_rows, wide * kPanel},
             {&queries, wide * kPanel},
             {&scores, kKeys * kPanel},
             {&acc, wide * kPanel},
             {&mask, k.drop.any() ? kKeys * kPanel : 0},
             {&bias_memory, PanelBias::floats(k.bias, kKeys)}});
  }
};

// Largest of the scores of vector v over rows [0, some), with minus infinity stored where masked.
Vec largest(const ScoreTile& t, int64_t v, float* s) {
  const int64_t all = t.seen_by_all(v), some = t.seen_by_some(v);
  const Vec lanes = lane_numbers();
  Vec m0(kLow), m1(kLow), m2(kLow), m3(kLow);
  int64_t j = 0;
  for (; j + 4 <= all; j += 4) {
    m0 = max(m0, Vec::load(s + j * kPanel));
    m1 = max(m1, Vec::load(s + (j + 1) * kPanel));
    m2 = max(m2, Vec::load(s + (j + 2) * kPanel));
    m3 = max(m3, Vec::load(s + (j + 3) * kPanel));
  }
  for (; j < all; ++j) m0 = max(m0, Vec::load(s + j * kPanel));
  for (; j < some; ++j) {
    const Vec x = select_less(lanes, Vec(t.first_lane(v, j)), Vec(-INFINITY), Vec::load(s + j * kPanel));
    x.store(s + j * kPanel);
    m0 = max(m0, x);
  }
  return max(max(m0, m1), max(m2, m3));
}

// Scores become 2^(score - top); sums and the accumulated output are rescaled where a maximum grew.
void softmax(const ScoreTile& t, FwdState& st) {
  for (int64_t v = 0; v < t.vectors(); ++v) {
    float *s = st.scores + v * kLanes, *top = st.top + v * kLanes, *sum = st.sum + v * kLanes;
    const Vec old = Vec::load(top), high = max(old, largest(t, v, s));
    if (t.j0 > 0 && hmax(high - old) > 0) {
      float shrink[kLanes];
      exp2(old - high).store(shrink);
      (Vec::load(sum) * Vec::load(shrink)).store(sum);
      for (int64_t i = 0; i < kLanes; ++i) {
        if (shrink[i] == 1.0f) continue;
        float* acc = st.acc + (v * kLanes + i) * kPanel;
        for (int64_t d = 0; d < st.wide; d += kPanel)
          for (int64_t half = 0; half < kPanel; half += kLanes)
            (Vec::load(acc + d * kPanel + half) * Vec(shrink[i])).store(acc + d * kPanel + half);
      }
    }
    high.store(top);
    Vec total = Vec::load(sum);
    const int64_t some = t.seen_by_some(v);
    for (int64_t j = 0; j < some; ++j) {
      const Vec p = simd::exp2(Vec::load(s + j * kPanel) - high);
      total += p;
      p.store(s + j * kPanel);
    }
    total.store(sum);
    // Register tiles of the second product may reach into the vector from its neighbour.
    for (int64_t j = some; j < std::min(t.cols, some + kRows); ++j) Vec::zero().store(s + j * kPanel);
  }
}

// Queries [i0, i0 + n) of one head, at most a panel, against all keys they see.
void forward_tile(const AttentionFwd& k, FwdState& st, const Segment& g, int64_t head, int64_t i0, int64_t n) {
  const int64_t dim = k.s.dim, row = g.q0 + i0;
  load_rows(k.q, k.turn.q, row, n, head, dim, k.s.scale * kLog2e, st.q_rows, kPanel);
  transpose_panel(st.q_rows, kPanel, n, dim, st.queries);
  PanelBias bias(k.bias, k.s.q_rows, kKeys, st.bias_memory);
  if (k.bias.any()) bias.begin(row, n, head);
  std::fill(st.top, st.top + kPanel, kLow);
  std::fill(st.sum, st.sum + kPanel, 0.0f);
  const int64_t seen = g.keys(i0 + n - 1);
  for (int64_t j0 = 0; j0 < seen; j0 += kKeys) {
    const ScoreTile t{g, i0, n, j0, std::min(kKeys, seen - j0)};
    score_rows(t, st.keys, st.key_rows, st.queries, dim, st.scores);
    if (k.bias.any()) bias.add(t, st.scores);
    softmax(t, st);
    if (k.drop.any()) {  // after the sums, which are of all keys
      drop_mask(k.drop, t, head, st.mask);
      apply_mask(t, st.mask, st.scores);
    }
    for (int64_t p = 0; p < tile::panels(dim); ++p) {
      for (int64_t r = 0; r < n; r += kRows) {
        const int64_t rows = std::min(kRows, n - r), depth = t.depth(r + rows);
        if (depth > 0)
          tile::multiply<Left::kColumns>(rows, tile::vectors(dim, p), st.scores + r, 0,
                                         st.values + (p * st.key_rows + j0) * kPanel, 0, depth,
                                         st.acc + (p * kPanel + r) * kPanel, j0 > 0);
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    const Vec inverse(st.sum[i] > 0 ? 1.0f / st.sum[i] : 0.0f);
    for (int64_t p = 0; p < tile::panels(dim); ++p) {
      float* acc = st.acc + (p * kPanel + i) * kPanel;
      for (int64_t v = 0; v < kPanel; v += kLanes) (Vec::load(acc + v) * inverse).store(acc + v);
    }
    if (k.lse != nullptr) k.lse[head * k.s.q_rows + row + i] = st.top[i] + std::log2(std::max(st.sum[i], 1e-30f));
  }
  store_rows(st.acc, kPanel, 1.0f, k.out, nullptr, row, n, head, dim, false);
}

}  // namespace

void run(const AttentionFwd& k, Cpu, Stream&) {
  const int64_t group = k.s.q_heads / k.s.kv_heads;
  const Partition parts(k.s, kPanel, k.s.kv_heads, group);
  parallel_for(parts.threads(), 1, [&](int64_t begin, int64_t end) {
    for (const Piece& p : parts.pieces(begin, end)) {
      if (p.tiles == 0) continue;
      if (p.g.lq <= kFewQueries && k.turn.k == nullptr && !k.bias.any() && !k.drop.any()) {
        forward_few(k, p.g, p.head, p.head * group + p.begin, p.end - p.begin);
        continue;
      }
      FwdState st(k, parts.longest());
      load_rows(k.k, k.turn.k, p.g.k0, p.g.lk, p.head, k.s.dim, 1.0f, st.keys, st.key_rows);
      load_rows(k.v, nullptr, p.g.k0, p.g.lk, p.head, k.s.dim, 1.0f, st.values, st.key_rows);
      for (int64_t u = p.begin; u < p.end; ++u) {
        const int64_t i0 = u % p.per_head * kPanel;
        forward_tile(k, st, p.g, p.head * group + u / p.per_head, i0, std::min(kPanel, p.g.lq - i0));
      }
    }
  });
}

}  // namespace tpo
