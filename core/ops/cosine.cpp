#include "core/ops/cosine.h"

#include "core/kernels/cosine.h"
#include "core/ops/op_util.h"

namespace tpo {

Tensor normalize_rows(const Tensor& x, float eps) {
  check_float("normalize_rows", x, "x");
  check_shape(eps > 0, "[normalize_rows] eps is ", eps, ", must be > 0");
  const int64_t C = last_dim(x), R = rows_of(x);
  Tensor y = empty_like(x), inverse = Tensor::empty({R});
  launch(NormalizeFwd{raw(x), raw(y), f32(inverse), R, C, eps, x.dtype()});
  record("normalize_rows", {x}, {&y}, [y = y.detach(), inverse, R, C, eps](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = reuse(dy[0]);
    launch(NormalizeBwd{raw(y), raw(dy[0]), f32(inverse), raw(gx), R, C, eps, y.dtype()});
    dx.add(0, gx);
  });
  return y;
}

Tensor cosine_similarity(const Tensor& a, const Tensor& b, float eps) {
  check_float("cosine_similarity", a, "a");
  check_like("cosine_similarity", b, "b", a);
  check_shape(a.shape() == b.shape(), "[cosine_similarity] shapes differ: ", a.shape(), " and ", b.shape());
  check_shape(eps > 0, "[cosine_similarity] eps is ", eps, ", must be > 0");
  const int64_t C = last_dim(a), R = rows_of(a);
  Tensor y = Tensor::empty(leading_of(a), a.dtype()), stats = Tensor::empty({R, 3});
  launch(CosineFwd{raw(a), raw(b), raw(y), f32(stats), R, C, eps, a.dtype()});
  record("cosine_similarity", {a, b}, {&y},
         [a = a.detach(), b = b.detach(), stats, R, C, eps](std::span<const Tensor> dy, GradSink& dx) {
           const Tensor da = dx.wants(0) ? empty_like(a) : Tensor(), db = dx.wants(1) ? empty_like(b) : Tensor();
           launch(CosineBwd{raw(a), raw(b), f32(stats), raw(dy[0]), raw(da), raw(db), R, C, eps, a.dtype()});
           if (da.defined()) dx.add(0, da);
           if (db.defined()) dx.add(1, db);
         });
  return y;
}

}  // namespace tpo
