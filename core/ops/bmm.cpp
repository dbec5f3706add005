#include "core/ops/bmm.h"

#include "core/kernels/bmm.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

void multiply(const Tensor& a, const Tensor& b, const Tensor& c, BmmTrans t, bool accumulate) {
  launch(Bmm{raw(a), raw(b), raw(c), c.dim(0), c.dim(1), c.dim(2), a.dim(t.a ? 1 : 2), t.a, t.b, accumulate, a.dtype(),
             c.dtype()});
}

void gradient(GradSink& dx, int input, const Tensor& a, const Tensor& b, BmmTrans t) {
  if (!dx.wants(input)) return;
  const GradDest d = dx.destination(input);
  multiply(a, b, d.grad, t, d.accumulate);
}

}  // namespace

Tensor bmm(const Tensor& a, const Tensor& b, BmmTrans t) {
  check_float("bmm", a, "a");
  check_like("bmm", b, "b", a);
  check_shape(a.rank() == 3 && b.rank() == 3 && a.dim(0) == b.dim(0) && a.dim(t.a ? 1 : 2) == b.dim(t.b ? 2 : 1),
              "[bmm] a ", a.shape(), t.a ? " transposed" : "", " and b ", b.shape(), t.b ? " transposed" : "",
              " must be (B, M, K) and (B, K, N)");
  Tensor y = take_kept();
  if (!y.defined()) {
    y = Tensor::empty({a.dim(0), a.dim(t.a ? 2 : 1), b.dim(t.b ? 1 : 2)}, a.dtype());
    multiply(a, b, y, t, false);
    keep(y, false);
  }
  // With A = op(a), B = op(b):  dA = dy B^T,  dB = A^T dy, and the transposes of these where op transposes.
  record("bmm", {a, b}, {&y}, [a = a.detach(), b = b.detach(), t](std::span<const Tensor> dy, GradSink& dx) {
    if (t.a) {
      gradient(dx, 0, b, dy[0], {t.b, true});
    } else {
      gradient(dx, 0, dy[0], b, {false, !t.b});
    }
    if (t.b) {
      gradient(dx, 1, dy[0], a, {true, t.a});
    } else {
      gradient(dx, 1, a, dy[0], {!t.a, false});
    }
  });
  return y;
}

}  // namespace tpo
