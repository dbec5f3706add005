#pragma once
// What the forward and backward CPU kernels of attention share: segments, causal limits, the split over threads, memory
// of a thread, and rows of heads as panels.
// Scores are kept transposed, key by key, with queries along the vector: maxima, sums, masks and the saved
// log-sum-exp are then vectors, and keys and values need no transposition.
#include <algorithm>
#include <initializer_list>
#include <utility>
#include <vector>

#include "core/kernels/attention.h"
#include "core/kernels/gemm_tile.h"

namespace tpo::attention {

using simd::Vec;
using tile::kLanes;
using tile::kPanel;
using tile::kRows;
using tile::Left;

inline constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;

// One document: query rows [q0, q0 + lq), key rows [k0, k0 + lk).
struct Segment {
  int64_t q0, lq, k0, lk;
  bool causal;
  // Keys that query i sees: all, or up to the diagonal that joins the ends.
  int64_t keys(int64_t i) const { return causal ? std::clamp<int64_t>(i + (lk - lq) + 1, 0, lk) : lk; }
  // The first query that sees key j.
  int64_t first_query(int64_t j) const { return causal ? std::max<int64_t>(0, j - (lk - lq)) : 0; }
};

Segment segment(const AttentionShape& s, int64_t i);

// A run of query tiles of one (segment, key head): tile u is queries from u % per_head * side of head
// head0 + u / per_head.
struct Piece {
  Segment g;
  int64_t pair, head;       // which (segment, key head), and the key head
  int64_t begin, end;       // tiles of this piece
  int64_t tiles, per_head;  // of the whole pair, and of each of its query heads
  bool whole() const { return end - begin == tiles; }
};

// All query tiles of all (segment, key head) in one order, cut into runs of equal cost, one per thread: a thread may
// begin and end inside a pair, so that few or uneven segments share the machine evenly.
class Partition {
 public:
  // Tiles are `side` queries; `repeat` query heads share a key head.
  Partition(const AttentionShape& s, int64_t side, int64_t kv_heads, int64_t repeat);
  int64_t threads() const { return threads_; }
  int64_t longest() const { return longest_; }  // keys of a segment
  // The pieces of threads [begin, end) in order; neighbouring ones of one pair are one piece. Pairs without queries are
  // pieces of no tiles.
  std::vector<Piece> pieces(int64_t begin, int64_t end) const;

 private:
  int64_t tile_cost(const Segment& g, int64_t i) const;
  int64_t owner(int64_t cost) const {
    return total_ == 0 ? 0
                       : std::min(threads_ - 1, static_cast<int64_t>(static_cast<__int128>(cost) * threads_ / total_));
  }
  void cut(Piece& p, int64_t at, int64_t begin, int64_t end) const;

  const AttentionShape& s_;
  int64_t side_, kv_heads_, repeat_, threads_ = 1, total_ = 0, longest_ = 0;
  std::vector<int64_t> cost_;  // of one query head of each segment
};

// Sets each pointer to that many floats of this thread, aligned and uninitialised. The memory stays with the thread and
// is handed out again by the next call.
void scratch(std::initializer_list<std::pair<float**, int64_t>> parts);

// Rows [row, row + n) of a head, times `factor` and turned by a RopeTable if there is one, as panels of `out_rows` rows
// from out on; zero beyond dim.
void load_rows(const HeadView& from, const float* turn, int64_t row, int64_t n, int64_t head, int64_t dim, float factor,
               float* out, int64_t out_rows);
// Back: (+)= factor * panels of `from_rows` rows, turned back.
void store_rows(const float* from, int64_t from_rows, float factor, const HeadView& to, const float* turn, int64_t row,
                int64_t n, int64_t head, int64_t dim, bool accumulate);
// out[d][i] = element (i, d) of panels of `from_rows` rows, i < n; zero for i in n..kPanel.
void transpose_panel(const float* from, int64_t from_rows, int64_t n, int64_t dim, float* out);
// sums[i] = dot product of rows row + i of two views, i < n.
void dot_rows(const HeadView& a, const HeadView& b, int64_t row, int64_t n, int64_t head, int64_t dim, float* sums);

// Queries [i0, i0 + n) of a head, at most a panel, against keys [j0, j0 + cols).
struct ScoreTile {
  const Segment& g;
  int64_t i0, n, j0, cols;
  // Rows (keys) of vector v of which every query sees: [0, all); some: [all, some).
  int64_t seen_by_all(int64_t v) const { return limit(g.keys(i0 + v * kLanes)); }
  int64_t seen_by_some(int64_t v) const { return limit(g.keys(i0 + std::min(n, (v + 1) * kLanes) - 1)); }
  // Keys that the queries below `end` see.
  int64_t depth(int64_t end) const { return limit(g.keys(i0 + end - 1)); }
  int64_t vectors() const { return n > kLanes ? 2 : 1; }
  // Lanes of vector v in row j that are at or after this one see the key.
  float first_lane(int64_t v, int64_t j) const { return static_cast<float>(g.first_query(j0 + j) - i0 - v * kLanes); }

 private:
  int64_t limit(int64_t keys) const { return std::clamp<int64_t>(keys - j0, 0, cols); }
};

// out[j][i] = sum_d a[j0 + j][d] b[d][i] for a in panels of a_rows rows and a panel b. Vectors whose queries see none
// of kRows keys are left out.
inline void score_rows(const ScoreTile& t, const float* a, int64_t a_rows, const float* b, int64_t dim, float* out) {
  for (int64_t j = 0; j < t.cols; j += kRows) {
    const int64_t skip = t.g.first_query(t.j0 + j) - t.i0 >= kLanes ? 1 : 0;
    tile::multiply<Left::kRows>(std::min(kRows, t.cols - j), t.vectors() - skip, a + (t.j0 + j) * kPanel,
                                a_rows * kPanel, b + skip * kLanes, 0, dim, out + j * kPanel + skip * kLanes, false);
  }
}

// 0, 1, 2 ..
inline Vec lane_numbers() {
  float n[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) n[i] = static_cast<float>(i);
  return Vec::load(n);
}

}  // namespace tpo::attention
