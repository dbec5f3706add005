#include "core/ops/cast.h"
#include "core/ops/pointwise.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_pointwise_cases(CaseList&);

namespace {

using Fn1 = double (*)(double);
using Fn2 = double (*)(double, double);

Ref map1(const Ref& x, Fn1 fn) {
  Ref y = x;
  for (double& v : y.v) v = fn(v);
  return y;
}

Ref map2(const Ref& a, const Ref& b, Fn2 fn) {
  Ref y = a;
  for (size_t i = 0; i < y.v.size(); ++i) y.v[i] = fn(a.v[i], b.v[i]);
  return y;
}

double ref_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double ref_silu(double x) { return x * ref_sigmoid(x); }
double ref_gelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }
double ref_gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

// Normal values at least 0.01 from 0, where relu has its kink.
Tensor off_zero(Rand& r, const Shape& s) {
  const Tensor x = r.normal(s, 2);
  std::vector<float> v = std::vector<float>(static_cast<size_t>(s.numel()));
  if (x.device() == Device::kCpu) v = x.to_vector<float>();
  for (float& e : v) e += e < 0 ? -0.01f : 0.01f;
  return Tensor::from(v, s);
}

// Pairs at least 0.02 apart, where minimum and maximum have their kink, the second at least 0.5 from 0: a divisor.
std::vector<Tensor> apart(Rand& r, const Shape& s) {
  const Tensor a = r.normal(s, 2), b = r.normal(s);
  std::vector<float> va(static_cast<size_t>(s.numel())), vb = va;
  if (a.device() == Device::kCpu) va = a.to_vector<float>(), vb = b.to_vector<float>();
  for (size_t i = 0; i < va.size(); ++i) {
    vb[i] += vb[i] < 0 ? -0.5f : 0.5f;
    if (std::fabs(va[i] - vb[i]) < 0.04f) va[i] = vb[i] * 1.25f;
  }
  return {Tensor::from(va, s), Tensor::from(vb, s)};
}

struct Unary {
  const char* name;
  Tensor (*op)(const Tensor&);
  Fn1 ref;
  double tol;
};

struct Binary {
  const char* name;
  Tensor (*op)(const Tensor&, const Tensor&);
  Fn2 ref;
  double tol;
  bool apart = false;
};

struct Dims {
  Shape shape;
  Size size = Size::kSmall;
};

void add_unary(CaseList& list, const Unary& u, const Dims& d) {
  list.add(
      cat(u.name, "/", d.shape),
      [=](Rand& r) {
        return OpCase{.in = {off_zero(r, d.shape)},
                      .run = [=](Inputs v) { return u.op(v[0]); },
                      .ref = [=](RefInputs v) { return map1(v[0], u.ref); },
                      .grads = {0},
                      .tol = u.tol};
      },
      d.size);
  if (d.size == Size::kBench) return;
  // A second op behind it: the gradient arrives in memory that nobody shares and is overwritten in place.
  list.add(
      cat(u.name, "/in_place", d.shape),
      [=](Rand& r) {
        return OpCase{.in = {off_zero(r, d.shape)},
                      .run = [=](Inputs v) { return scale(u.op(v[0]), 1.5f); },
                      .ref =
                          [=](RefInputs v) {
                            Ref y = map1(v[0], u.ref);
                            for (double& e : y.v) e *= 1.5;
                            return y;
                          },
                      .grads = {0},
                      .tol = u.tol + 1e-7,
                      .bf16_stores = 2};
      },
      d.size);
}

void add_binary(CaseList& list, const Binary& b, const Dims& d) {
  list.add(
      cat(b.name, "/", d.shape),
      [=](Rand& r) {
        return OpCase{.in = b.apart ? apart(r, d.shape) : std::vector<Tensor>{r.normal(d.shape, 2), r.normal(d.shape)},
                      .run = [=](Inputs v) { return b.op(v[0], v[1]); },
                      .ref = [=](RefInputs v) { return map2(v[0], v[1], b.ref); },
                      .grads = {0, 1},
                      .tol = b.tol};
      },
      d.size);
  if (d.size == Size::kBench) return;
  list.add(
      cat(b.name, "/in_place", d.shape),
      [=](Rand& r) {
        return OpCase{.in = b.apart ? apart(r, d.shape) : std::vector<Tensor>{r.normal(d.shape, 2), r.normal(d.shape)},
                      .run = [=](Inputs v) { return scale(b.op(v[0], v[1]), -0.5f); },
                      .ref =
                          [=](RefInputs v) {
                            Ref y = map2(v[0], v[1], b.ref);
                            for (double& e : y.v) e *= -0.5;
                            return y;
                          },
                      .grads = {0, 1},
                      .tol = b.tol + 1e-7,
                      .bf16_stores = 2};
      },
      d.size);
}

void add_add_bias(CaseList& list, int64_t rows, int64_t cols, Size size) {
  list.add(
      cat("add_bias/", rows, "x", cols),
      [=](Rand& r) {
        return OpCase{.in = {r.normal({rows, cols}), r.normal({cols})},
                      .run = [](Inputs v) { return add_bias(v[0], v[1]); },
                      .ref =
                          [](RefInputs v) {
                            Ref y = v[0];
                            for (int64_t i = 0; i < y.rows(); ++i)
                              for (int64_t c = 0; c < y.cols(); ++c) y.at(i, c) += v[1][c];
                            return y;
                          },
                      .grads = {0, 1},
                      .tol = 6e-8};
      },
      size);
}

void add_add_table(CaseList& list, int64_t batch, int64_t rows, int64_t cols, Size size) {
  list.add(
      cat("add_table/", batch, "x", rows, "x", cols),
      [=](Rand& r) {
        return OpCase{.in = {r.normal({batch, rows, cols}), r.normal({1, rows, cols})},
                      .run = [](Inputs v) { return add_table(v[0], v[1]); },
                      .ref =
                          [=](RefInputs v) {
                            Ref y = v[0];
                            for (int64_t i = 0; i < batch * rows * cols; ++i) y[i] += v[1][i % (rows * cols)];
                            return y;
                          },
                      .grads = {0, 1},
                      .tol = 6e-8};
      },
      size);
}

// There and back through the other storage, whose rounding is 2^-8 in bf16; bf16 values come back as they were.
void add_cast(CaseList& list, const Dims& d) {
  list.add(
      cat("cast/", d.shape),
      [=](Rand& r) {
        return OpCase{.in = {r.normal(d.shape)},
                      .run =
                          [](Inputs v) {
                            const bool wide = v[0].dtype() == DType::kF32;
                            return cast(cast(v[0], wide ? DType::kBF16 : DType::kF32), v[0].dtype());
                          },
                      .ref = [](RefInputs v) { return v[0]; },
                      .grads = {0},
                      .tol = 1.0 / 256,
                      .grad_tol = 2.4 / 256,
                      .bf16_stores = 0};
      },
      d.size);
}

}  // namespace

void add_pointwise_cases(CaseList& list) {
  // One rounding of 2^-24 each; exponentials good to 2e-7; the distribution function of gelu to 2e-7 absolute, doubled
  // where x is beyond the largest output's scale.
  const Unary unary[] = {
      {"relu", relu, [](double x) { return x > 0 ? x : 0; }, 0},
      {"gelu", gelu, ref_gelu, 4e-7},
      {"gelu_tanh", gelu_tanh, ref_gelu_tanh, 4e-7},
      {"silu", silu, ref_silu, 3e-7},
      {"sigmoid", sigmoid, ref_sigmoid, 3e-7},
      // The bound that matters lies where off_zero leaves a gap.
      {"clamp_below", [](const Tensor& x) { return clamp(x, 0.005f, 100); },
       [](double x) { return std::max(x, 0.005); }, 6e-8},
      {"clamp_above", [](const Tensor& x) { return clamp(x, -100, -0.005f); },
       [](double x) { return std::min(x, -0.005); }, 6e-8},
      {"scale", [](const Tensor& x) { return scale(x, -2.5f); }, [](double x) { return -2.5 * x; }, 6e-8}};
  const Binary binary[] = {{"add", add, [](double a, double b) { return a + b; }, 6e-8},
                           {"sub", sub, [](double a, double b) { return a - b; }, 6e-8},
                           {"mul", mul, [](double a, double b) { return a * b; }, 6e-8},
                           {"swiglu", swiglu, [](double a, double b) { return ref_silu(a) * b; }, 4e-7},
                           {"div", div, [](double a, double b) { return a / b; }, 1.2e-7, true},
                           {"minimum", minimum, [](double a, double b) { return std::min(a, b); }, 0, true},
                           {"maximum", maximum, [](double a, double b) { return std::max(a, b); }, 0, true}};
  for (const Dims& d : {Dims{{1}}, {{7, 13}}, {{2, 3, 11}}, {{67, 1031}, Size::kLarge}, {{1024, 1024}, Size::kBench}}) {
    for (const Unary& u : unary) add_unary(list, u, d);
    for (const Binary& b : binary) add_binary(list, b, d);
    add_cast(list, d);
  }
  add_add_bias(list, 1, 1, Size::kSmall);
  add_add_bias(list, 7, 13, Size::kSmall);
  add_add_bias(list, 513, 384, Size::kLarge);
  add_add_bias(list, 1024, 1024, Size::kBench);
  add_add_table(list, 1, 1, 1, Size::kSmall);
  add_add_table(list, 3, 5, 7, Size::kSmall);
  add_add_table(list, 5, 131, 96, Size::kLarge);
  add_add_table(list, 8, 256, 768, Size::kBench);
}

}  // namespace tpo::optest
