#include "core/ops/matmul.h"

#include "core/kernels/basic.h"
#include "core/kernels/embedding.h"
#include "core/kernels/gemm.h"
#include "core/kernels/pointwise.h"
#include "core/launch.h"
#include "core/ops/activation.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

struct Trans {
  bool a, b;
};

// c = alpha op(a) op(b) + beta c, shapes taken from the tensors seen as matrices.
void gemm(const Tensor& a, const Tensor& b, const Tensor& c, Trans t, float alpha, float beta) {
  const int64_t a_cols = last_dim(a), a_rows = rows_of(a), n = last_dim(c);
  launch(Gemm{raw(a), raw(b), raw(c), t.a ? a_cols : a_rows, n, t.a ? a_rows : a_cols, t.a, t.b, alpha, beta, a.dtype(),
              c.dtype()});
}

// The gradient of input i is alpha op(a) op(b), written or accumulated where the sink wants it.
void gemm_grad(GradSink& dx, int i, const Tensor& a, const Tensor& b, Trans t, float alpha = 1) {
  if (!dx.wants(i)) return;
  const GradDest d = dx.destination(i);
  gemm(a, b, d.grad, t, alpha, d.accumulate ? 1.0f : 0.0f);
}

void check_matrices(const char* op, const Tensor& a, const Tensor& b, int a_dim, int b_dim) {
  check_float(op, a, "a");
  check_like(op, b, "b", a);
  check_shape(a.rank() == 2 && b.rank() == 2 && a.dim(a_dim) == b.dim(b_dim), "[", op, "] dim ", a_dim, " of a ",
              a.shape(), " must equal dim ", b_dim, " of b ", b.shape(), ", both of rank 2");
}

void check_linear(const char* op, const Tensor& x, const Tensor& w) {
  check_float(op, x, "x");
  check_like(op, w, "w", x);
  check_shape(w.rank() == 2 && last_dim(x) == w.dim(1), "[", op, "] x ", x.shape(), " must be (..., K) for w ",
              w.shape(), " of (N, K)");
}

}  // namespace

Tensor matmul_nn(const Tensor& a, const Tensor& b) {
  check_matrices("matmul_nn", a, b, 1, 0);
  Tensor y = Tensor::empty({a.dim(0), b.dim(1)}, a.dtype());
  gemm(a, b, y, {false, false}, 1, 0);
  record("matmul_nn", {a, b}, {&y}, [a = a.detach(), b = b.detach()](std::span<const Tensor> dy, GradSink& dx) {
    gemm_grad(dx, 0, dy[0], b, {false, true});
    gemm_grad(dx, 1, a, dy[0], {true, false});
  });
  return y;
}

Tensor matmul_nt(const Tensor& a, const Tensor& b) {
  check_matrices("matmul_nt", a, b, 1, 1);
  Tensor y = Tensor::empty({a.dim(0), b.dim(0)}, a.dtype());
  gemm(a, b, y, {false, true}, 1, 0);
  record("matmul_nt", {a, b}, {&y}, [a = a.detach(), b = b.detach()](std::span<const Tensor> dy, GradSink& dx) {
    gemm_grad(dx, 0, dy[0], b, {false, false});
    gemm_grad(dx, 1, dy[0], a, {true, false});
  });
  return y;
}

Tensor matmul_tn(const Tensor& a, const Tensor& b) {
  check_matrices("matmul_tn", a, b, 0, 0);
  Tensor y = Tensor::empty({a.dim(1), b.dim(1)}, a.dtype());
  gemm(a, b, y, {true, false}, 1, 0);
  record("matmul_tn", {a, b}, {&y}, [a = a.detach(), b = b.detach()](std::span<const Tensor> dy, GradSink& dx) {
    gemm_grad(dx, 0, b, dy[0], {false, true});
    gemm_grad(dx, 1, a, dy[0], {false, false});
  });
  return y;
}

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias, Activation act) {
  check_linear("linear", x, w);
  const int64_t N = w.dim(0), M = rows_of(x);
  if (bias.defined()) {
    check_like("linear", bias, "bias", x);
    check_shape(bias.shape() == Shape{N}, "[linear] bias ", bias.shape(), " must be (N) for w ", w.shape());
  }
  Tensor z = take_kept();
  if (!z.defined()) {
    z = Tensor::empty(x.shape().with_last(N), x.dtype());
    if (bias.defined())  // then beta 1: no second pass over z
      launch(BroadcastRows{raw(bias), raw(z), M, bias.nbytes()});
    gemm(x, w, z, {false, true}, 1, bias.defined() ? 1.0f : 0.0f);
    keep(z, act != Activation::kNone);
  }
  const FusedActivation fused(act, z, any_wants_grad({x, w, bias}));
  Tensor y = fused.y();
  record("linear", {x, w, bias}, {&y},
         [x = x.detach(), w = w.detach(), at_z = fused.backward()](std::span<const Tensor> dy, GradSink& dx) {
           const Tensor dz = at_z(dy[0]);
           gemm_grad(dx, 0, dz, w, {false, false});
           if (!dx.wants(1) && !dx.wants(2)) return;
           dx.defer([x, dz](GradSink& weights) {
             gemm_grad(weights, 1, dz, x, {true, false});
             fp32_destination(weights, 2, [&](const Tensor& g, bool accumulate) {
               launch(ColumnSums{raw(dz), f32(g), rows_of(dz), last_dim(dz), accumulate, dz.dtype()});
             });
           });
         });
  return y;
}

namespace {

void record_linear_add(const Tensor& x, const Tensor& w, const Tensor& base, float alpha, Tensor& y) {
  record("linear_add", {x, w, base}, {&y},
         [x = x.detach(), w = w.detach(), alpha](std::span<const Tensor> dy, GradSink& dx) {
           dx.add(2, dy[0]);
           gemm_grad(dx, 0, dy[0], w, {false, false}, alpha);
           if (!dx.wants(1)) return;
           dx.defer([x, dy = dy[0], alpha](GradSink& weights) { gemm_grad(weights, 1, dy, x, {true, false}, alpha); });
         });
}

void check_linear_add(const char* op, const Tensor& x, const Tensor& w, const Tensor& base) {
  check_linear(op, x, w);
  check_like(op, base, "base", x);
  const Shape out = x.shape().with_last(w.dim(0));
  check_shape(base.shape() == out, "[", op, "] base ", base.shape(), " must be ", out, " for x ", x.shape(), " and w ",
              w.shape());
}

}  // namespace

Tensor linear_add(const Tensor& x, const Tensor& w, const Tensor& base, float alpha) {
  check_linear_add("linear_add", x, w, base);
  Tensor y = empty_like(base);
  launch(CopyBytes{y.raw(), base.raw(), base.nbytes()});
  gemm(x, w, y, {false, true}, alpha, 1);
  record_linear_add(x, w, base, alpha, y);
  return y;
}

Tensor linear_add_into(const Tensor& x, const Tensor& w, const Tensor& base, float alpha) {
  check_linear_add("linear_add_into", x, w, base);
  check_shape(base.storage_id() != x.storage_id(), "[linear_add_into] base ", base.shape(), " shares the memory of x");
  Tensor y = take_kept();
  if (!y.defined()) {
    y = base.detach();
    gemm(x, w, y, {false, true}, alpha, 1);
    keep(y, false);
  }
  record_linear_add(x, w, base, alpha, y);
  return y;
}

}  // namespace tpo
