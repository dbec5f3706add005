#pragma once
// What is added to the scaled scores of one panel of queries, in both directions. Scores lie key by key, so the
// decomposed form is two vector additions a score; the full form is transposed block by block.
#include "core/kernels/attention_tiles.h"

namespace tpo::attention {

class PanelBias {
 public:
  // Memory that one needs, for tiles of up to `keys` keys.
  static int64_t floats(const AttentionBiasView& b, int64_t keys);
  PanelBias(const AttentionBiasView& b, int64_t q_rows, int64_t keys, float* memory);

  // Queries [row, row + n) of a head come next; their gradients are 0.
  void begin(int64_t row, int64_t n, int64_t head);
  // Scores += bias * log2 e.
  void add(const ScoreTile& t, float* scores) const;
  // Takes dS of a tile: adds it to g.full, and to the sums of the decomposed form.
  void add_gradient(const ScoreTile& t, const float* ds, const AttentionBiasGrad& g);
  // Writes those sums.
  void finish(const AttentionBiasGrad& g) const;

 private:
  int64_t full_at(int64_t j0) const;  // element of the full bias at the panel's first query and key j0

  AttentionBiasView b_;
  int64_t q_rows_, row_ = 0, n_ = 0, head_ = 0;
  float *rel_h_, *rel_w_;    // (grid_h, kPanel), (grid_w, kPanel), times log2 e
  float *drel_h_, *drel_w_;  // their gradients
  float* block_;             // (keys, kPanel) and its transpose
  float* rows_;              // a panel of queries as rows of the grid
};

}  // namespace tpo::attention
