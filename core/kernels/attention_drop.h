#pragma once
// Dropout of attention probabilities: masks of score tiles, which lie key by key as scores do, so that a vector holds
// one word of the counters of as many queries.
#include "core/kernels/attention_tiles.h"

namespace tpo::attention {

// mask[j][i] = 1 / (1 - p) where query i of the tile and head keeps key j, else 0, as far as some query of a vector
// sees the key. Tiles begin at multiples of 4 keys; the mask has room for t.cols rows rounded up to 4.
void drop_mask(const AttentionDropView& drop, const ScoreTile& t, int64_t head, float* mask);

// x *= mask in the same places.
void apply_mask(const ScoreTile& t, const float* mask, float* x);

}  // namespace tpo::attention
