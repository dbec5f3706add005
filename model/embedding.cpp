#include "model/embedding.h"

#include "core/kernels/basic.h"
#include "core/launch.h"
#include "core/ops/reduce.h"

namespace tpo {

void init_added_rows(Param& table, int64_t base, AddedRows mode) {
  const int64_t rows = table.full[0];
  check_shape(base >= 1 && base <= rows, "[init_added_rows] ", table.name, ' ', table.full, " has no base of ", base);
  if (base == rows) return;
  const NoGradScope no_grad;
  const Tensor mean = mean_pool_rows(table.value.rows(0, base), base);  // (1, C)
  for (int64_t r = base; r < rows; ++r) launch(CopyBytes{table.value.rows(r, r + 1).raw(), mean.raw(), mean.nbytes()});
  if (mode == AddedRows::kFrozen) table.frozen_rows_begin = base;
}

TokenEmbedding::TokenEmbedding(const ParamScope& scope, int64_t base, int64_t added, int64_t width, AddedRows mode,
                               const Init& init)
    : weight_(&scope.param("weight", {base + added, width}, init)) {
  init_added_rows(*weight_, base, mode);
}

}  // namespace tpo
