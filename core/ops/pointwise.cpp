#include "core/ops/pointwise.h"

#include "core/kernels/gemm.h"
#include "core/kernels/pointwise.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

void check_same(const char* op, const Tensor& a, const Tensor& b) {
  check_float(op, a, "first operand");
  check_float(op, b, "second operand");
  check_shape(a.shape() == b.shape(), "[", op, "] shapes differ: ", a.shape(), " and ", b.shape());
}

Tensor binary(const char* op, const Tensor& a, const Tensor& b, BinaryKind kind) {
  check_same(op, a, b);
  Tensor y = empty_like(a);
  launch(Binary{raw(a), raw(b), raw(y), y.numel(), kind, y.dtype()});
  return y;
}

Tensor scaled(const Tensor& x, float alpha, const Tensor& out) {
  launch(Scale{raw(x), raw(out), x.numel(), alpha, x.dtype()});
  return out;
}

Tensor unary(const char* op, const Tensor& x, UnaryKind kind) {
  check_float(op, x, "x");
  Tensor y = empty_like(x);
  launch(UnaryFwd{raw(x), raw(y), y.numel(), kind, x.dtype()});
  Tensor saved = saves_output(kind) ? y.detach() : x.detach();
  record(op, {x}, {&y}, [saved, kind](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = reuse(dy[0]);
    launch(UnaryBwd{raw(saved), raw(dy[0]), raw(gx), gx.numel(), kind, gx.dtype()});
    dx.add(0, gx);
  });
  return y;
}

// Ops whose derivatives read both operands.
Tensor binary_saving(const char* op, const Tensor& a, const Tensor& b, BinaryKind kind) {
  Tensor y = binary(op, a, b, kind);
  record(op, {a, b}, {&y}, [a = a.detach(), b = b.detach(), kind](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor da = dx.wants(0) ? empty_like(a) : Tensor(), db = dx.wants(1) ? reuse(dy[0]) : Tensor();
    launch(BinaryBwd{raw(a), raw(b), raw(dy[0]), raw(da), raw(db), a.numel(), kind, a.dtype()});
    if (da.defined()) dx.add(0, da);
    if (db.defined()) dx.add(1, db);
  });
  return y;
}

}  // namespace

namespace {

void record_add(const Tensor& a, const Tensor& b, Tensor& y) {
  record("add", {a, b}, {&y}, [](std::span<const Tensor> dy, GradSink& dx) {
    dx.add(0, dy[0]);
    dx.add(1, dy[0]);
  });
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) {
  Tensor y = binary("add", a, b, BinaryKind::kAdd);
  record_add(a, b, y);
  return y;
}

Tensor add_into(const Tensor& a, const Tensor& b) {
  check_same("add_into", a, b);
  check_shape(a.storage_id() != b.storage_id(), "[add_into] both operands ", a.shape(), " share their memory");
  Tensor y = take_kept();
  if (!y.defined()) {
    y = b.detach();
    launch(Binary{raw(a), raw(b), raw(y), y.numel(), BinaryKind::kAdd, y.dtype()});
    keep(y, false);
  }
  record_add(a, b, y);
  return y;
}

Tensor sub(const Tensor& a, const Tensor& b) {
  Tensor y = binary("sub", a, b, BinaryKind::kSub);
  record("sub", {a, b}, {&y}, [](std::span<const Tensor> dy, GradSink& dx) {
    dx.add(0, dy[0]);
    if (dx.wants(1)) dx.add(1, scaled(dy[0], -1.0f, reuse(dy[0])));  // dy is shared if input 0 took it
  });
  return y;
}

Tensor mul(const Tensor& a, const Tensor& b) {
  Tensor y = binary("mul", a, b, BinaryKind::kMul);
  record("mul", {a, b}, {&y}, [a = a.detach(), b = b.detach()](std::span<const Tensor> dy, GradSink& dx) {
    if (dx.wants(0)) dx.add(0, binary("mul", dy[0], b, BinaryKind::kMul));
    if (dx.wants(1)) dx.add(1, binary("mul", dy[0], a, BinaryKind::kMul));
  });
  return y;
}

Tensor div(const Tensor& a, const Tensor& b) { return binary_saving("div", a, b, BinaryKind::kDiv); }
Tensor minimum(const Tensor& a, const Tensor& b) { return binary_saving("minimum", a, b, BinaryKind::kMin); }
Tensor maximum(const Tensor& a, const Tensor& b) { return binary_saving("maximum", a, b, BinaryKind::kMax); }

Tensor clamp(const Tensor& x, float lo, float hi) {
  check_float("clamp", x, "x");
  check_shape(lo <= hi, "[clamp] lo ", lo, " is above hi ", hi);
  Tensor y = empty_like(x);
  launch(Clamp{raw(x), nullptr, raw(y), y.numel(), lo, hi, x.dtype()});
  record("clamp", {x}, {&y}, [x = x.detach(), lo, hi](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = reuse(dy[0]);
    launch(Clamp{raw(x), raw(dy[0]), raw(gx), gx.numel(), lo, hi, gx.dtype()});
    dx.add(0, gx);
  });
  return y;
}

Tensor scale(const Tensor& x, float alpha) {
  check_float("scale", x, "x");
  Tensor y = scaled(x, alpha, empty_like(x));
  record("scale", {x}, {&y},
         [alpha](std::span<const Tensor> dy, GradSink& dx) { dx.add(0, scaled(dy[0], alpha, reuse(dy[0]))); });
  return y;
}

Tensor add_bias(const Tensor& x, const Tensor& bias) {
  check_float("add_bias", x, "x");
  check_like("add_bias", bias, "bias", x);
  const int64_t C = last_dim(x), R = rows_of(x);
  check_shape(bias.shape() == Shape{C}, "[add_bias] bias ", bias.shape(), " must be (C) for x ", x.shape());
  Tensor y = empty_like(x);
  launch(AddBias{raw(x), raw(bias), raw(y), R, C, x.dtype()});
  record("add_bias", {x, bias}, {&y}, [R, C](std::span<const Tensor> dy, GradSink& dx) {
    fp32_destination(dx, 1, [&](const Tensor& g, bool accumulate) {
      launch(ColumnSums{raw(dy[0]), f32(g), R, C, accumulate, dy[0].dtype()});
    });
    dx.add(0, dy[0]);
  });
  return y;
}

Tensor add_table(const Tensor& x, const Tensor& table) {
  check_float("add_table", x, "x");
  check_like("add_table", table, "table", x);
  Shape want{1};
  for (int i = 1; i < x.rank(); ++i) want.push_back(x.dim(i));
  check_shape(x.rank() >= 1 && table.shape() == want, "[add_table] table ", table.shape(), " must be ", want, " for x ",
              x.shape());
  const int64_t n = table.numel();
  return add_bias(x.view({x.dim(0), n}), table.view({n})).view(x.shape());
}

Tensor relu(const Tensor& x) { return unary("relu", x, UnaryKind::kRelu); }
Tensor gelu(const Tensor& x) { return unary("gelu", x, UnaryKind::kGelu); }
Tensor gelu_tanh(const Tensor& x) { return unary("gelu_tanh", x, UnaryKind::kGeluTanh); }
Tensor silu(const Tensor& x) { return unary("silu", x, UnaryKind::kSilu); }
Tensor sigmoid(const Tensor& x) { return unary("sigmoid", x, UnaryKind::kSigmoid); }

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  check_same("swiglu", gate, up);
  Tensor y = empty_like(gate);
  launch(SwigluFwd{raw(gate), raw(up), raw(y), y.numel(), y.dtype()});
  record("swiglu", {gate, up}, {&y},
         [gate = gate.detach(), up = up.detach()](std::span<const Tensor> dy, GradSink& dx) {
           const Tensor dgate = empty_like(gate), dup = reuse(dy[0]);
           launch(SwigluBwd{raw(gate), raw(up), raw(dy[0]), raw(dgate), raw(dup), gate.numel(), gate.dtype()});
           dx.add(0, dgate);
           dx.add(1, dup);
         });
  return y;
}

}  // namespace tpo
