#include "core/ops/dropout.h"

#include "core/kernels/dropout.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

// `mask` without its addresses.
Tensor drop(const char* op, const Tensor& x, const Dropout& mask, const Tensor& row_ids) {
  check_float(op, x, "x");
  check_shape(mask.p >= 0 && mask.p < 1, "[", op, "] p is ", mask.p, ", must be in [0, 1)");
  check_shape(mask.first_col >= 0, "[", op, "] first_column is ", mask.first_col, ", must not be negative");
  if (mask.p == 0) return x;
  const int64_t R = rows_of(x);
  check_shape(row_ids.defined() && row_ids.dtype() == DType::kI64 && row_ids.shape() == Shape{R}, "[", op, "] row_ids ",
              row_ids.shape(), " must be (N) i64 for x ", x.shape());
  Tensor y = empty_like(x);
  const auto apply = [mask, R, C = last_dim(x)](const Tensor& from, const Tensor& ids, const Tensor& to) {
    Dropout k = mask;
    k.x = raw(from), k.row_ids = static_cast<const int64_t*>(ids.raw()), k.y = raw(to);
    k.rows = R, k.cols = C, k.dtype = to.dtype();
    launch(k);
  };
  apply(x, row_ids, y);
  record(op, {x}, {&y}, [apply, row_ids](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = reuse(dy[0]);
    apply(dy[0], row_ids, gx);
    dx.add(0, gx);
  });
  return y;
}

}  // namespace

Tensor dropout(const Tensor& x, float p, RngKey key, const Tensor& row_ids, int64_t first_column) {
  return drop("dropout", x, {.p = p, .key = key, .first_col = first_column}, row_ids);
}

Tensor drop_path(const Tensor& x, float p, RngKey key, const Tensor& ids) {
  return drop("drop_path", x, {.p = p, .key = key, .whole_rows = true}, ids);
}

}  // namespace tpo
