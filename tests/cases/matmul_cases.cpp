#include "core/ops/matmul.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_matmul_cases(CaseList&);

namespace {

struct Mnk {
  int64_t m, n, k;
  Size size = Size::kSmall;
};

constexpr Mnk kSizes[] = {
    {1, 1, 1}, {7, 5, 13}, {1, 31, 17}, {67, 33, 96, Size::kLarge}, {512, 1024, 256, Size::kBench}};

// c[i, j] = sum_k a(i, k) b(k, j) with element functions.
template <class A, class B>
Ref product(int64_t m, int64_t n, int64_t k, const A& a, const B& b) {
  Ref y({m, n});
  for (int64_t i = 0; i < m; ++i)
    for (int64_t p = 0; p < k; ++p)
      for (int64_t j = 0; j < n; ++j) y.at(i, j) += a(i, p) * b(p, j);
  return y;
}

double reference_activation(double x, Activation act) {
  switch (act) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return x > 0 ? x : 0;
    case Activation::kGelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979324) * (x + 0.044715 * x * x * x)));
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
  }
  return x;
}

void add_products(CaseList& list) {
  for (const auto [m, n, k, size] : kSizes) {
    const std::string dims = cat(m, "x", n, "x", k);
    list.add(
        "matmul_nn/" + dims,
        [=](Rand& r) {
          return OpCase{.in = {r.normal({m, k}), r.normal({k, n})},
                        .run = [](Inputs v) { return matmul_nn(v[0], v[1]); },
                        .ref =
                            [=](RefInputs v) {
                              return product(
                                  m, n, k, [&](auto i, auto p) { return v[0].at(i, p); },
                                  [&](auto p, auto j) { return v[1].at(p, j); });
                            },
                        .grads = {0, 1},
                        .tol = sum_tolerance(k)};
        },
        size);
    list.add(
        "matmul_nt/" + dims,
        [=](Rand& r) {
          return OpCase{.in = {r.normal({m, k}), r.normal({n, k})},
                        .run = [](Inputs v) { return matmul_nt(v[0], v[1]); },
                        .ref =
                            [=](RefInputs v) {
                              return product(
                                  m, n, k, [&](auto i, auto p) { return v[0].at(i, p); },
                                  [&](auto p, auto j) { return v[1].at(j, p); });
                            },
                        .grads = {0, 1},
                        .tol = sum_tolerance(k)};
        },
        size);
    list.add(
        "matmul_tn/" + dims,
        [=](Rand& r) {
          return OpCase{.in = {r.normal({k, m}), r.normal({k, n})},
                        .run = [](Inputs v) { return matmul_tn(v[0], v[1]); },
                        .ref =
                            [=](RefInputs v) {
                              return product(
                                  m, n, k, [&](auto i, auto p) { return v[0].at(p, i); },
                                  [&](auto p, auto j) { return v[1].at(p, j); });
                            },
                        .grads = {0, 1},
                        .tol = sum_tolerance(k)};
        },
        size);
  }
}

struct Fusion {
  const char* name;
  bool bias;
  Activation act;
};

OpCase linear_case(Rand& r, Mnk s, Fusion f) {
  std::vector<Tensor> in = {r.normal({s.m, s.k}), r.normal({s.n, s.k}, 1 / std::sqrt(static_cast<float>(s.k)))};
  if (f.bias) in.push_back(r.normal({s.n}));
  return OpCase{.in = in,
                .run = [f](Inputs v) { return linear(v[0], v[1], f.bias ? v[2] : Tensor(), f.act); },
                .ref =
                    [s, f](RefInputs v) {
                      Ref y = product(
                          s.m, s.n, s.k, [&](auto i, auto p) { return v[0].at(i, p); },
                          [&](auto p, auto j) { return v[1].at(j, p); });
                      for (int64_t i = 0; i < s.m; ++i)
                        for (int64_t j = 0; j < s.n; ++j)
                          y.at(i, j) = reference_activation(y.at(i, j) + (f.bias ? v[2][j] : 0), f.act);
                      return y;
                    },
                .grads = f.bias ? std::vector<int>{0, 1, 2} : std::vector<int>{0, 1},
                // the product, then an activation good to 2e-7 of its argument
                .tol = sum_tolerance(s.k) + 5e-7,
                .bf16_stores = f.act == Activation::kNone ? 1 : 2};  // the pre-activation is stored
}

void add_linear(CaseList& list) {
  const Fusion fusions[] = {{"plain", false, Activation::kNone},    {"bias", true, Activation::kNone},
                            {"bias_relu", true, Activation::kRelu}, {"bias_gelu", true, Activation::kGelu},
                            {"gelu", false, Activation::kGelu},     {"bias_gelu_tanh", true, Activation::kGeluTanh},
                            {"bias_silu", true, Activation::kSilu}};
  for (const Mnk s : kSizes)
    for (const Fusion f : fusions)
      list.add(
          cat("linear/", s.m, "x", s.n, "x", s.k, "_", f.name), [=](Rand& r) { return linear_case(r, s, f); }, s.size);
  // Leading dims are rows.
  list.add("linear/2x3x5_rank3", [](Rand& r) {
    OpCase c = linear_case(r, {6, 4, 5}, {"", true, Activation::kGelu});
    c.run = [](Inputs v) { return linear(v[0].view({2, 3, 5}), v[1], v[2], Activation::kGelu); };
    c.ref = [ref = c.ref](RefInputs v) {
      Ref y = ref(v);
      y.shape = {2, 3, 4};
      return y;
    };
    return c;
  });
}

void add_linear_add(CaseList& list) {
  for (const Mnk s : {Mnk{1, 1, 1}, {13, 7, 3}, {130, 97, 8, Size::kLarge}, {1024, 256, 8, Size::kBench}}) {
    list.add(
        cat("linear_add/", s.m, "x", s.n, "x", s.k),
        [=](Rand& r) {
          return OpCase{.in = {r.normal({s.m, s.k}), r.normal({s.n, s.k}), r.normal({s.m, s.n})},
                        .run = [](Inputs v) { return linear_add(v[0], v[1], v[2], 0.75f); },
                        .ref =
                            [=](RefInputs v) {
                              Ref y = product(
                                  s.m, s.n, s.k, [&](auto i, auto p) { return 0.75 * v[0].at(i, p); },
                                  [&](auto p, auto j) { return v[1].at(j, p); });
                              for (int64_t i = 0; i < s.m * s.n; ++i) y[i] += v[2][i];
                              return y;
                            },
                        .grads = {0, 1, 2},
                        .tol = sum_tolerance(s.k + 1)};
        },
        s.size);
  }
}

}  // namespace

void add_matmul_cases(CaseList& list) {
  add_products(list);
  add_linear(list);
  add_linear_add(list);
}

}  // namespace tpo::optest
