#include "parallel/tensor/cut.h"

#include "parallel/comm/process_group.h"

namespace tpo {

Range balanced_part(int64_t size, int rank, int ranks) { return {size * rank / ranks, size * (rank + 1) / ranks}; }

int64_t Cut::size() const {
  int64_t n = 0;
  for (const Range& r : ranges) n += r.size();
  return n;
}

bool Cut::owner() const { return sharers == nullptr || sharers->rank() == 0; }

ShardSpec Cut::rows_of(const Shape& full) const {
  ShardSpec spec{{}, owner()};
  const Rect whole = whole_of(full);
  for (const Range& r : ranges) spec.rects.push_back({r.begin, r.size(), 0, whole.cols});
  return spec;
}

ShardSpec Cut::columns_of(const Shape& full) const {
  check_shape(ranges.size() == 1, "[cut] columns of ", full, " in ", ranges.size(), " ranges, must be one");
  return {{{0, full[0], ranges[0].begin, ranges[0].size()}}, owner()};
}

Cut balanced_cut(std::string_view layer, std::string_view what, int64_t size, const ProcessGroup& tp) {
  check<ConfigError>(size >= tp.size(), "layer ", layer, " has ", size, ' ', what, ", too few for ", tp.size(),
                     " tensor-parallel ranks; set the tensor axis to at most ", size);
  return {{balanced_part(size, tp.rank(), tp.size())}, nullptr};
}

HeadPart head_part(int64_t heads, int64_t kv_heads, int rank, int ranks) {
  const int64_t each = heads / kv_heads;  // query heads of a key-value head
  if (!shares_kv(kv_heads, ranks)) {
    const Range kv = balanced_part(kv_heads, rank, ranks);
    return {{kv.begin * each, kv.end * each}, kv};
  }
  const int64_t kv = shared_kv_head(kv_heads, rank, ranks);
  int first = rank, last = rank;
  while (first > 0 && shared_kv_head(kv_heads, first - 1, ranks) == kv) --first;
  while (last + 1 < ranks && shared_kv_head(kv_heads, last + 1, ranks) == kv) ++last;
  const Range mine = balanced_part(each, rank - first, last - first + 1);
  return {{kv * each + mine.begin, kv * each + mine.end}, {kv, kv + 1}};
}

HeadPart head_part(std::string_view layer, int64_t heads, int64_t kv_heads, const ProcessGroup& tp) {
  balanced_cut(layer, "heads", heads, tp);  // refuses too few
  return head_part(heads, kv_heads, tp.rank(), tp.size());
}

}  // namespace tpo
