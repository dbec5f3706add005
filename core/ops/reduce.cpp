#include "core/ops/reduce.h"

#include "core/kernels/reduce.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

// alpha times the sums of `group` rows each, as tensors of shape `out`.
Tensor pool(const char* op, const Tensor& x, int64_t group, const Shape& out, float alpha) {
  const int64_t C = last_dim(x), O = C == 0 ? 0 : out.numel() / C;
  Tensor y = Tensor::empty(out, x.dtype());
  launch(PoolRowsFwd{raw(x), raw(y), O, group, C, alpha, x.dtype()});
  record(op, {x}, {&y}, [=, shape = x.shape()](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = Tensor::empty(shape, dy[0].dtype());
    launch(PoolRowsBwd{raw(dy[0]), raw(gx), O, group, C, alpha, gx.dtype()});
    dx.add(0, gx);
  });
  return y;
}

// alpha times the sums of the last dim.
Tensor collapse(const char* op, const Tensor& x, float alpha) {
  const int64_t C = last_dim(x), R = rows_of(x);
  Tensor y = Tensor::empty(leading_of(x), x.dtype());
  launch(SumLast{raw(x), raw(y), R, C, alpha, x.dtype()});
  record(op, {x}, {&y}, [=, shape = x.shape()](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = Tensor::empty(shape, dy[0].dtype());
    launch(RepeatLast{raw(dy[0]), raw(gx), R, C, alpha, gx.dtype()});
    dx.add(0, gx);
  });
  return y;
}

// 1 / n of a mean over n elements.
float inverse_count(const char* op, const Tensor& x, int64_t n) {
  check_shape(n > 0, "[", op, "] x ", x.shape(), " leaves nothing to take the mean of");
  return 1.0f / static_cast<float>(n);
}

}  // namespace

Tensor sum_all(const Tensor& x) {
  check_float("sum_all", x, "x");
  Tensor y = Tensor::empty({1});
  launch(SumAll{raw(x), f32(y), x.numel(), x.dtype()});
  record("sum_all", {x}, {&y}, [shape = x.shape(), dtype = x.dtype()](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = Tensor::empty(shape, dtype);
    launch(FillWith{f32(dy[0]), raw(gx), gx.numel(), dtype});
    dx.add(0, gx);
  });
  return y;
}

Tensor mean_pool_rows(const Tensor& x, int64_t group) {
  check_float("mean_pool_rows", x, "x");
  check_shape(x.rank() == 2 && group >= 1 && x.dim(0) % group == 0, "[mean_pool_rows] x ", x.shape(),
              " must be (R, C) with R a multiple of group ", group);
  return pool("mean_pool_rows", x, group, {x.dim(0) / group, x.dim(1)}, 1.0f / static_cast<float>(group));
}

Tensor sum_rows(const Tensor& x) {
  check_float("sum_rows", x, "x");
  return pool("sum_rows", x, rows_of(x), {last_dim(x)}, 1);
}

Tensor mean_rows(const Tensor& x) {
  check_float("mean_rows", x, "x");
  return pool("mean_rows", x, rows_of(x), {last_dim(x)}, inverse_count("mean_rows", x, rows_of(x)));
}

Tensor sum_last(const Tensor& x) {
  check_float("sum_last", x, "x");
  return collapse("sum_last", x, 1);
}

Tensor mean_last(const Tensor& x) {
  check_float("mean_last", x, "x");
  return collapse("mean_last", x, inverse_count("mean_last", x, last_dim(x)));
}

Tensor argmax_rows(const Tensor& x) {
  check_float("argmax_rows", x, "x");
  check_shape(x.rank() == 2 && x.dim(1) >= 1, "[argmax_rows] x ", x.shape(), " must be (N, V) with V >= 1");
  Tensor y = Tensor::empty({x.dim(0)}, DType::kI32);
  launch(ArgmaxRows{raw(x), static_cast<int32_t*>(y.raw()), x.dim(0), x.dim(1), x.dtype()});
  record_data("argmax_rows");
  return y;
}

}  // namespace tpo
