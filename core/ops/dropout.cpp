#include "core/ops/dropout.h"

#include "core/kernels/dropout.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

Tensor dropout(const Tensor& x, float p, RngKey key, const Tensor& row_ids, int64_t first_column) {
  check_float("dropout", x, "x");
  check_shape(p >= 0 && p < 1, "[dropout] p is ", p, ", must be in [0, 1)");
  check_shape(first_column >= 0, "[dropout] first_column is ", first_column, ", must not be negative");
  if (p == 0) return x;
  const int64_t C = last_dim(x), R = rows_of(x);
  check_shape(row_ids.defined() && row_ids.dtype() == DType::kI64 && row_ids.shape() == Shape{R}, "[dropout] row_ids ",
              row_ids.shape(), " must be (N) i64 for x ", x.shape());
  Tensor y = empty_like(x);
  const auto mask = [p, key, R, C, first_column](const Tensor& from, const Tensor& ids, const Tensor& to) {
    launch(Dropout{raw(from), static_cast<const int64_t*>(ids.raw()), raw(to), R, C, p, key, to.dtype(), first_column});
  };
  mask(x, row_ids, y);
  record("dropout", {x}, {&y}, [mask, row_ids](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = reuse(dy[0]);
    mask(dy[0], row_ids, gx);
    dx.add(0, gx);
  });
  return y;
}

}  // namespace tpo
