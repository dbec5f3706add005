#pragma once
// Attention forward for a segment of very few queries: generation. Reads keys and values where they lie, once for all
// query heads that share them; bound by that memory. Tiles would fill a panel of queries with one.
#include "core/kernels/attention_tiles.h"

namespace tpo::attention {

inline constexpr int64_t kFewQueries = 3;  // a step of generation is 1.5 times as fast so (bench/results/ops.md)

// Query heads [head, head + heads), which share key head kv, of one segment of at most kFewQueries queries.
// Keys are not turned.
void forward_few(const AttentionFwd& k, const Segment& g, int64_t kv, int64_t head, int64_t heads);

}  // namespace tpo::attention
