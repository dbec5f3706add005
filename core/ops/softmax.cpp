#include "core/ops/softmax.h"

#include "core/kernels/softmax.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

Tensor softmax_rows(const char* op, const Tensor& x, bool log) {
  check_float(op, x, "x");
  const int64_t C = last_dim(x), R = rows_of(x);
  check_shape(C >= 1, "[", op, "] the last dim of ", x.shape(), " is empty");
  Tensor y = empty_like(x);
  launch(SoftmaxFwd{raw(x), raw(y), R, C, x.dtype(), log});
  // dx = y * (dy - sum_c(y * dy)); of the logarithm dx = dy - e^y * sum_c(dy)
  record(op, {x}, {&y}, [y = y.detach(), R, C, log](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = reuse(dy[0]);
    launch(SoftmaxBwd{raw(y), raw(dy[0]), raw(gx), R, C, y.dtype(), log});
    dx.add(0, gx);
  });
  return y;
}

}  // namespace

Tensor softmax(const Tensor& x) { return softmax_rows("softmax", x, false); }
Tensor log_softmax(const Tensor& x) { return softmax_rows("log_softmax", x, true); }

}  // namespace tpo
