#include "model/embedding.h"

#include <algorithm>
#include <cstring>

#include "core/kernels/storage.h"

namespace tpo {

namespace {

// Column sums of the first n rows of each rank's part, in double, in the order of rows: a rank goes on where the one
// before it ended.
std::vector<double> column_sums(const Tensor& part, int64_t n, ProcessGroup& tp, const std::string& what) {
  const int64_t C = part.dim(1);
  std::vector<double> sums(static_cast<size_t>(C));
  for (int rank = 0; rank < tp.size(); ++rank) {
    with_storage(part.dtype(), [&]<class T>() {
      const T* p = part.data<T>();
      for (int64_t r = 0; rank == tp.rank() && r < n; ++r)
        for (int64_t c = 0; c < C; ++c) sums[static_cast<size_t>(c)] += widen(p[r * C + c]);
    });
    const auto bytes = tp.broadcast_bytes(std::as_bytes(std::span(sums)), rank, what);
    std::memcpy(sums.data(), bytes.data(), bytes.size());
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
    const std::vector<double> sums = column_sums(table.value, first, tp, table.name);
    with_storage(table.value.dtype(), [&]<class T>() {
      T* p = table.value.data<T>();
      for (int64_t r = first; r < rows.size(); ++r)
        for (int64_t c = 0; c < C; ++c)
          p[r * C + c] = narrow<T>(static_cast<float>(sums[static_cast<size_t>(c)] / static_cast<double>(base)));
    });
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
