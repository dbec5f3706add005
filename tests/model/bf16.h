#pragma once
// What a case computes with weights and activations in bf16, against the same in fp32.
#include <cstdio>
#include <functional>

#include "core/ops/cast.h"
#include "model_fixture.h"

namespace tpo::testing {

// Bound of a case in bf16, against the same weights and inputs in fp32. To round the result of a product is to move a
// row of its weight by as much, relatively: y (1 + d) = (w (1 + d)) x, and the same holds for a norm's gain, a table,
// an input. So the result in bf16 is that in fp32 of a model whose weights moved by one rounding, d <= 2^-8, for each
// that they stand for: what a layer reads, its product, what follows it (an activation, a sum, the stream), the norm,
// and the gradients of these four: 8, which are independent and add up as a root. How much an array answers to one, its
// condition, is measured in fp32 with weights that move at random by up to 2^-8. The largest of an array's elements,
// which round apart from each other where rows of a weight move together, and the few draws: a factor of 1.5.
inline const double kRoundings = 1.5 * std::sqrt(8.0);

using Arrays = std::map<std::string, std::vector<float>>;

// Storage of weights and activations of one run of a case, and its weights and inputs.
struct Numbers {
  DType storage = DType::kF32;
  bool rounded = false;  // to bf16, whatever the storage; matrices then have a gain of 0.5
  int draw = 0;          // > 0: moved at random by at most one rounding to bf16, 2^-8 of each element

  Tensor noise(std::string_view name, const Shape& shape) const {
    std::vector<float> v = testing::noise(name, shape.numel());
    if (rounded) std::transform(v.begin(), v.end(), v.begin(), to_bf16);
    move(name, v.data(), v.size());
    return cast(Tensor::from(v, shape), storage);
  }
  void fill(ParamStore& store) const {
    fill_with_noise(store, rounded ? 0.5f : 1.0f, rounded);
    for (const auto& p : store.params())
      if (draw > 0) move(p->name, p->value.data<float>(), static_cast<size_t>(p->value.numel()));
  }

 private:
  void move(std::string_view name, float* v, size_t n) const {
    if (draw == 0) return;
    const std::vector<float> by = testing::noise(cat("draw ", draw, " ", name), static_cast<int64_t>(n));
    for (size_t i = 0; i < n; ++i) v[i] *= 1 + 0x1p-8f * by[i];
  }
};

// Everything that a case computes: outputs by name, gradients of parameters as "grad.<name>".
using CaseRun = std::function<Arrays(const Numbers&)>;

inline void add_gradients(Arrays& arrays, const ParamStore& store) {
  for (auto& [name, g] : take_gradients(store)) arrays["grad." + name] = std::move(g);
}

// Differences of arrays from references of the same names, over the largest element of the reference.
struct Differences {
  // Globs of gradients of biases that are zero but for rounding: they are compared with the gradient that has "weight"
  // for "bias" in its name.
  std::vector<std::string> vanishing = {};

  bool vanishes(const std::string& name) const {
    return std::any_of(vanishing.begin(), vanishing.end(), [&](const auto& glob) { return glob_match(glob, name); });
  }
  // The array in whose units `name` is measured.
  std::string unit_of(std::string name) const {
    return vanishes(name) ? name.replace(name.rfind("bias"), 4, "weight") : name;
  }
  double operator()(const Arrays& ours, const Arrays& references, const std::string& name) const {
    return vanishes(name) ? max_abs(ours.at(name)) / max_abs(references.at(unit_of(name)))
                          : relative_difference(ours.at(name), references.at(name));
  }
};

struct Bf16Error {
  double difference, bound;
};

// By array; expects each within its bound. what: for messages.
inline std::map<std::string, Bf16Error> expect_bf16(const std::string& what, const CaseRun& run,
                                                    const Differences& differences) {
  const Arrays ours = run({DType::kBF16, true}), exact = run({DType::kF32, true});
  std::map<std::string, double> squares;
  constexpr int kDraws = 8;
  for (int draw = 1; draw <= kDraws; ++draw) {
    const Arrays moved = run({DType::kF32, true, draw});
    for (const auto& [name, v] : moved) squares[name] += std::pow(differences(moved, exact, name), 2) / kDraws;
  }
  EXPECT_EQ(ours.size(), exact.size()) << what;
  std::map<std::string, Bf16Error> errors;
  double largest = 0, share = 0;
  for (const auto& [name, reference] : exact) {
    const double d = differences(ours, exact, name);
    const double bound = kRoundings * std::sqrt(squares.at(differences.unit_of(name)));
    EXPECT_LE(d, bound) << what << ' ' << name << " in bf16";
    largest = std::max(largest, d);
    if (bound > 0) share = std::max(share, d / bound);
    errors[name] = {d, bound};
  }
  std::printf("%s in bf16: largest difference from fp32 %.1e, at most %.2f of its bound\n", what.c_str(), largest,
              share);
  return errors;
}

}  // namespace tpo::testing
