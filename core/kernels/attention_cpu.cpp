// Attention forward. Per (segment, key head): keys and values are packed once and serve every query head of the group.
// Then, for 48 queries at a time, scores of up to 96 keys stay in the first-level cache between their two products;
// row maxima and sums are carried from tile to tile.
#include <cmath>
#include <limits>

#include "core/kernels/attention.h"
#include "core/kernels/attention_tiles.h"

namespace tpo {

namespace {

using namespace attention;

constexpr int64_t kQueries = 48;  // a multiple of the 6 rows of a register tile
constexpr int64_t kKeys = 96;     // 48 x 96 scores are 18 KiB; 48 to 384 measure alike

struct FwdState {
  int64_t dim, wide;  // head width, and rounded up to panels
  Scratch memory;
  float *keys_t, *values, *scores, *acc;
  float top[kQueries], sum[kQueries];

  FwdState(int64_t d, int64_t longest)
      : dim(d),
        wide(tile::round_up(d, tile::kPanel)),
        memory((dim + wide + 2) * tile::round_up(longest, tile::kPanel) + kQueries * (kKeys + wide) + 64) {
    keys_t = memory.take(dim * tile::round_up(longest, tile::kPanel));
    values = memory.take(wide * longest);
    scores = memory.take(kQueries * kKeys);
    acc = memory.take(kQueries * wide);
  }
};

// One row of a tile: scores become exp(scale * score - top), the row's accumulator is rescaled if its maximum grew.
// Of `width` (a multiple of 8) scores, those from `valid` on are masked.
void softmax_row(float* s, int64_t valid, int64_t width, float scale, float& top, float& sum, float* acc,
                 int64_t wide) {
  std::fill(s + valid, s + width, -std::numeric_limits<float>::infinity());
  F8 m = F8::load(s);
  for (int64_t j = 8; j < width; j += 8) m = max(m, F8::load(s + j));
  const float new_top = std::max(top, scale * simd::hmax(m));
  if (new_top > top && top > -std::numeric_limits<float>::infinity()) {
    const float shrink = std::exp(top - new_top);
    sum *= shrink;
    for (int64_t d = 0; d < wide; d += 8) (F8::load(acc + d) * F8(shrink)).store(acc + d);
  }
  top = new_top;
  F8 total = F8::zero();
  for (int64_t j = 0; j < width; j += 8) {
    const F8 p = simd::exp(fma(F8::load(s + j), F8(scale), F8(-new_top)));
    total += p;
    p.store(s + j);
  }
  sum += simd::hsum(total);
}

// Queries [i0, i0 + n) of one head against all keys they see.
void forward_tile(const AttentionFwd& k, FwdState& st, const Segment& g, int64_t head, int64_t i0, int64_t n) {
  const bool causal = k.s.causal;
  std::fill(st.acc, st.acc + n * st.wide, 0.0f);
  std::fill(st.top, st.top + n, -std::numeric_limits<float>::infinity());
  std::fill(st.sum, st.sum + n, 0.0f);
  const int64_t seen = g.keys(causal, i0 + n - 1, g.lk);
  for (int64_t j0 = 0; j0 < seen; j0 += kKeys) {
    for (int64_t r = 0; r < n; r += tile::kRows) {
      const int64_t rows = std::min(tile::kRows, n - r);
      const int64_t cols = std::min(kKeys, g.keys(causal, i0 + r + rows - 1, g.lk) - j0);
      if (cols <= 0) continue;
      const float* q = k.q.at(g.q0 + i0 + r, head);
      float *s = st.scores + r * kKeys, *acc = st.acc + r * st.wide;
      for (int64_t p = 0; p < cols; p += tile::kPanel)
        tile::multiply<Left::kRows>(rows, q, k.q.row, st.keys_t + (j0 + p) * st.dim, st.dim, s + p, kKeys, false);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t valid = std::clamp<int64_t>(g.keys(causal, i0 + r + i, g.lk) - j0, 0, cols);
        softmax_row(s + i * kKeys, valid, tile::round_up(cols, 8), k.s.scale, st.top[r + i], st.sum[r + i],
                    acc + i * st.wide, st.wide);
      }
      for (int64_t d = 0; d < st.dim; d += tile::kPanel)
        tile::multiply<Left::kRows>(rows, s, kKeys, st.values + d * g.lk + j0 * tile::kPanel, cols, acc + d, st.wide,
                                    true);
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    float* out = k.out.at(g.q0 + i0 + i, head);
    const float inverse = 1.0f / st.sum[i];
    for (int64_t d = 0; d < st.dim; ++d) out[d] = st.acc[i * st.wide + d] * inverse;
    if (k.lse != nullptr) k.lse[head * k.s.q_rows + g.q0 + i0 + i] = st.top[i] + std::log(st.sum[i]);
  }
}

}  // namespace

void run(const AttentionFwd& k, Cpu, Stream&) {
  const int64_t group = k.s.q_heads / k.s.kv_heads;
  for_segment_heads(
      k.s, [&](int64_t longest) { return FwdState(k.s.dim, longest); },
      [&](FwdState& st, const Segment& g, int64_t kv) {
        if (g.lq == 0) return;
        tile::pack_transposed(k.k.at(g.k0, kv), k.k.row, g.lk, st.dim, st.keys_t);
        tile::pack_columns(k.v.at(g.k0, kv), k.v.row, g.lk, st.dim, st.values);
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h)
          for (int64_t i = 0; i < g.lq; i += kQueries) forward_tile(k, st, g, h, i, std::min(kQueries, g.lq - i));
      });
}

}  // namespace tpo
