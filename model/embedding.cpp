#include "model/embedding.h"

#include <algorithm>
#include <cstring>

namespace tpo {

namespace {

// Column sums of rows [0, n), in double, in the order of rows.
std::vector<double> column_sums(const Tensor& t, int64_t n) {
  const int64_t C = t.dim(1);
  std::vector<double> sums(static_cast<size_t>(C));
  const float* p = t.data<float>();
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < C; ++c) sums[static_cast<size_t>(c)] += p[r * C + c];
  return sums;
}

// Added over ranks, in their order.
std::vector<double> over_ranks(const std::vector<double>& mine, ProcessGroup& tp) {
  std::vector<double> sums(mine.size()), other(mine.size());
  for (const auto& bytes : tp.all_gather_bytes(std::as_bytes(std::span(mine)), "mean of a table")) {
    std::memcpy(other.data(), bytes.data(), bytes.size());
    for (size_t c = 0; c < sums.size(); ++c) sums[c] += other[c];
  }
  return sums;
}

Param& make_table(const ParamScope& scope, const Shape& full, const Range& rows, const Init& init) {
  if (rows.size() == full[0]) return scope.param("weight", full, init);
  return scope.param("weight", full, {rows.size(), full[1]}, Cut{{rows}, nullptr}.rows_of(full), init);
}

}  // namespace

void init_added_rows(Param& table, int64_t base, AddedRows mode, const Range& rows, ProcessGroup& tp) {
  check_shape(base >= 1 && base <= table.full[0] && rows.size() == table.value.dim(0), "[init_added_rows] ", table.name,
              ' ', table.full, " has no base of ", base, " or its value ", table.value.shape(), " is not rows ",
              rows.begin, " to ", rows.end);
  if (base == table.full[0]) return;
  const int64_t first = std::clamp<int64_t>(base - rows.begin, 0, rows.size()), C = table.full[1];  // local
  (void)table.value.raw();  // taken here, on meta too
  if (table.value.device() != Device::kMeta) {
    const std::vector<double> sums = over_ranks(column_sums(table.value, first), tp);
    for (int64_t r = first; r < rows.size(); ++r)
      for (int64_t c = 0; c < C; ++c)
        table.value.data<float>()[r * C + c] =
            static_cast<float>(sums[static_cast<size_t>(c)] / static_cast<double>(base));
  }
  if (mode == AddedRows::kTrained) return;
  table.decay = false;  // on ranks of the tensor axis whose part has no frozen row too
  if (first < rows.size()) table.frozen_rows_begin = first;
}

TokenEmbedding::TokenEmbedding(const ParamScope& scope, int64_t base, int64_t added, int64_t width, AddedRows mode,
                               const Init& init, const TensorParallel& tp)
    : tp_(tp),
      rows_(balanced_cut(scope.prefix(), "rows", base + added, *tp.group).ranges[0]),
      weight_(&make_table(scope, {base + added, width}, rows_, init)) {
  init_added_rows(*weight_, base, mode, rows_, *tp.group);
}

Tensor TokenEmbedding::operator()(const Tensor& ids) const {
  if (tp_.size() == 1) return embedding(weight_->use(), ids);
  return reduce_from(embedding_part(weight_->use(), ids, rows_.begin, weight_->full[0]), *tp_.group, {}, weight_->name);
}

}  // namespace tpo
