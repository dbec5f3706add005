#include "core/ops/reduce.h"

#include "core/kernels/reduce.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

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
  const int64_t out = x.dim(0) / group, C = x.dim(1);
  const float alpha = 1.0f / static_cast<float>(group);
  Tensor y = Tensor::empty({out, C}, x.dtype());
  launch(PoolRowsFwd{raw(x), raw(y), out, group, C, alpha, x.dtype()});
  record("mean_pool_rows", {x}, {&y}, [out, group, C, alpha](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = Tensor::empty({out * group, C}, dy[0].dtype());
    launch(PoolRowsBwd{raw(dy[0]), raw(gx), out, group, C, alpha, gx.dtype()});
    dx.add(0, gx);
  });
  return y;
}

Tensor argmax_rows(const Tensor& x) {
  check_float("argmax_rows", x, "x");
  check_shape(x.rank() == 2 && x.dim(1) >= 1, "[argmax_rows] x ", x.shape(), " must be (N, V) with V >= 1");
  Tensor y = Tensor::empty({x.dim(0)}, DType::kI32);
  launch(ArgmaxRows{raw(x), static_cast<int32_t*>(y.raw()), x.dim(0), x.dim(1), x.dtype()});
  return y;
}

}  // namespace tpo
