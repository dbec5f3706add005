#include "core/ops/cast.h"

#include "core/kernels/cast.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

Tensor converted(const Tensor& x, DType dtype) {
  Tensor y = Tensor::empty(x.shape(), dtype);
  launch(Cast{x.raw(), y.raw(), x.numel(), x.dtype(), dtype});
  return y;
}

}  // namespace

Tensor cast(const Tensor& x, DType dtype) {
  check_float("cast", x, "x");
  check_shape(is_float(dtype), "[cast] to ", dtype, "; legal: f32, bf16");
  if (x.dtype() == dtype) return x;
  Tensor y = converted(x, dtype);
  record("cast", {x}, {&y},
         [from = x.dtype()](std::span<const Tensor> dy, GradSink& dx) { dx.add(0, converted(dy[0], from)); });
  return y;
}

}  // namespace tpo
