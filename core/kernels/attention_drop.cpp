#include "core/kernels/attention_drop.h"

#include "core/kernels/philox.h"

namespace tpo::attention {

void drop_mask(const AttentionDropView& drop, const ScoreTile& t, int64_t head, float* mask) {
  static_assert(kLanes % 8 == 0, "philox_rows makes eight lanes");
  const int32_t limit = drop_limit(drop.p);
  const float keep = 1.0f / (1.0f - drop.p);
  const RngKey key = drop.key.with(static_cast<uint64_t>(drop.first_head + head));
  for (int64_t i = 0; i < t.vectors() * kLanes; i += 8) {
    int64_t ids[8] = {};  // lanes without a query draw some mask
    if (i < t.n) std::copy_n(drop.row_ids + t.g.q0 + t.i0 + i, std::min<int64_t>(8, t.n - i), ids);
    for (int64_t j = 0, some = t.seen_by_some(i / kLanes); j < some; j += 4) {
      uint32_t words[32];
      philox_rows(key, static_cast<uint64_t>(t.j0 + j) / 4, ids, words);
      for (int64_t w = 0; w < 4; ++w) {
        float* m = mask + (j + w) * kPanel + i;
#pragma omp simd
        for (int64_t e = 0; e < 8; ++e) m[e] = static_cast<int32_t>(words[8 * w + e] >> 8) >= limit ? keep : 0.0f;
      }
    }
  }
}

void apply_mask(const ScoreTile& t, const float* mask, float* x) {
  for (int64_t v = 0; v < t.vectors(); ++v)
    for (int64_t j = 0, some = t.seen_by_some(v); j < some; ++j) {
      const int64_t at = j * kPanel + v * kLanes;
      (Vec::load(x + at) * Vec::load(mask + at)).store(x + at);
    }
}

}  // namespace tpo::attention
