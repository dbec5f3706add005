#include "core/ops/softmax.h"

#include "core/kernels/softmax.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

Tensor softmax(const Tensor& x) {
  check_f32("softmax", x, "x");
  const int64_t C = last_dim(x), R = rows_of(x);
  check_shape(C >= 1, "[softmax] the last dim of ", x.shape(), " is empty");
  Tensor y = empty_like(x);
  launch(SoftmaxFwd{f32(x), f32(y), R, C});
  // dx = y * (dy - sum_c(y * dy))
  record("softmax", {x}, {&y}, [y = y.detach(), R, C](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = reuse(dy[0]);
    launch(SoftmaxBwd{f32(y), f32(dy[0]), f32(gx), R, C});
    dx.add(0, gx);
  });
  return y;
}

}  // namespace tpo
