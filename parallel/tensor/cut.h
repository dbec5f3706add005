#pragma once
// Which part of a dimension a rank of the tensor axis holds. Sizes that the ranks do not divide are cut unevenly.
#include <string_view>
#include <vector>

#include "core/param.h"

namespace tpo {

class ProcessGroup;

struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// Rank r of n holds [size r / n, size (r + 1) / n): parts differ by at most one, and follow each other.
Range balanced_part(int64_t size, int rank, int ranks);

// The part of a dimension, and who else holds it.
struct Cut {
  std::vector<Range> ranges;  // one after the other; several for a fused weight
  // Ranks that hold the same part and each add to its gradient; null: none but this one.
  ProcessGroup* sharers = nullptr;
  int64_t size() const;
  bool owner() const;  // counts the part in norms: the first of the sharers

  // The part of a tensor with this cut along dim 0, or along the columns of a matrix (one range only).
  ShardSpec rows_of(const Shape& full) const;
  ShardSpec columns_of(const Shape& full) const;
};

// The balanced cut of a layer's dimension. Throws ConfigError, naming layer, sizes and what is legal, if there are more
// ranks than `size`.
Cut balanced_cut(std::string_view layer, std::string_view what, int64_t size, const ProcessGroup& tp);

// Heads of grouped-query attention. With at least as many key-value heads as ranks these are cut, and the query heads
// follow them; else ranks r share key-value head r * kv_heads / ranks and cut its query heads. Either way all
// key-value heads of a rank have the same number of query heads there.
struct HeadPart {
  Range q, kv;
};
HeadPart head_part(int64_t heads, int64_t kv_heads, int rank, int ranks);
// The same for a layer. Throws ConfigError that names it if there are more ranks than heads.
HeadPart head_part(std::string_view layer, int64_t heads, int64_t kv_heads, const ProcessGroup& tp);
// True if several ranks hold the same key-value head, and which one a rank then holds.
inline bool shares_kv(int64_t kv_heads, int ranks) { return kv_heads < ranks; }
inline int64_t shared_kv_head(int64_t kv_heads, int rank, int ranks) { return rank * kv_heads / ranks; }

}  // namespace tpo
