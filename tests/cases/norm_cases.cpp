#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_norm_cases(CaseList&);

namespace {

// gain (x - mean) / sqrt(mean squared deviation + eps) + bias; RMS norm has mean 0 and no bias.
Ref reference(const Ref& x, const Ref& gain, const Ref* bias, double eps) {
  Ref y = x;
  const auto C = static_cast<double>(x.cols());
  for (int64_t r = 0; r < x.rows(); ++r) {
    double mean = 0, squares = 0;
    if (bias != nullptr)
      for (int64_t c = 0; c < x.cols(); ++c) mean += x.at(r, c) / C;
    for (int64_t c = 0; c < x.cols(); ++c) squares += (x.at(r, c) - mean) * (x.at(r, c) - mean) / C;
    for (int64_t c = 0; c < x.cols(); ++c)
      y.at(r, c) = gain[c] * (x.at(r, c) - mean) / std::sqrt(squares + eps) + (bias != nullptr ? (*bias)[c] : 0);
  }
  return y;
}

// What of a fused sum and norm is used afterwards: a backward gets the gradients of both outputs, or of one.
enum class Use { kBoth, kNormed, kSum };

Tensor used(const NormedSum& n, Use use) {
  if (use == Use::kBoth) return add(n.sum, n.normed);
  return use == Use::kSum ? n.sum : n.normed;
}

Ref added(const Ref& a, const Ref& b) {
  Ref y = a;
  for (size_t i = 0; i < y.v.size(); ++i) y.v[i] += b.v[i];
  return y;
}

Ref used(const Ref& sum, const Ref& normed, Use use) {
  if (use == Use::kBoth) return added(sum, normed);
  return use == Use::kSum ? sum : normed;
}

struct Dims {
  int64_t rows, cols;
  float eps = 1e-5f;
  Size size = Size::kSmall;
};

void add_fused(CaseList& list, const Dims& d, Use use, const char* name) {
  const std::string dims = cat(d.rows, "x", d.cols, "_", name);
  const double eps = static_cast<double>(d.eps);
  const bool normed = use != Use::kSum;
  list.add(
      "add_rms_norm/" + dims,
      [=](Rand& r) {
        return OpCase{.in = {r.normal({d.rows, d.cols}), r.normal({d.rows, d.cols}), r.normal({d.cols})},
                      .run = [=](Inputs v) { return used(add_rms_norm(v[0], v[1], v[2], d.eps), use); },
                      .ref =
                          [=](RefInputs v) {
                            const Ref sum = added(v[0], v[1]);
                            return used(sum, reference(sum, v[2], nullptr, eps), use);
                          },
                      .grads = normed ? std::vector<int>{0, 1, 2} : std::vector<int>{0, 1},
                      .tol = 6e-7 + sum_tolerance(d.cols) / 2,
                      .bf16_stores = 3,  // the sum, the norm, and their sum here
                      .bf16_grad_stores = 4};
      },
      d.size);
  list.add(
      "add_layer_norm/" + dims,
      [=](Rand& r) {
        return OpCase{
            .in = {r.normal({d.rows, d.cols}), r.normal({d.rows, d.cols}), r.normal({d.cols}), r.normal({d.cols})},
            .run = [=](Inputs v) { return used(add_layer_norm(v[0], v[1], v[2], v[3], d.eps), use); },
            .ref =
                [=](RefInputs v) {
                  const Ref sum = added(v[0], v[1]);
                  return used(sum, reference(sum, v[2], &v[3], eps), use);
                },
            .grads = normed ? std::vector<int>{0, 1, 2, 3} : std::vector<int>{0, 1},
            .tol = 1e-6 + sum_tolerance(d.cols),
            .bf16_stores = 3,
            .bf16_grad_stores = 4};
      },
      d.size);
}

}  // namespace

void add_norm_cases(CaseList& list) {
  // One or two columns get a large eps: without it the derivative is a difference of equal numbers. 2081 rows are more
  // than the 64 blocks of 32 of the column sums. The x of layer_norm is off centre by ten deviations.
  for (const Dims d : {Dims{1, 1, 0.5f},
                       {3, 2, 0.5f},
                       {1, 8},
                       {5, 33},
                       {71, 17},
                       {2081, 24, 1e-5f, Size::kLarge},
                       {67, 4096, 1e-5f, Size::kLarge},
                       {1024, 256, 1e-5f, Size::kBench},
                       {4096, 1024, 1e-5f, Size::kBench}}) {
    const std::string dims = cat(d.rows, "x", d.cols);
    const double eps = static_cast<double>(d.eps);
    list.add(
        "rms_norm/" + dims,
        [=](Rand& r) {
          return OpCase{.in = {r.normal({d.rows, d.cols}), r.normal({d.cols})},
                        .run = [=](Inputs v) { return rms_norm(v[0], v[1], d.eps); },
                        .ref = [=](RefInputs v) { return reference(v[0], v[1], nullptr, eps); },
                        .grads = {0, 1},
                        // five roundings, and the error of the sum over the row, which the root halves
                        .tol = 4e-7 + sum_tolerance(d.cols) / 2};
        },
        d.size);
    list.add(
        "layer_norm/" + dims,
        [=](Rand& r) {
          return OpCase{.in = {r.uniform({d.rows, d.cols}, 2.0f, 2.7f), r.normal({d.cols}), r.normal({d.cols})},
                        .run = [=](Inputs v) { return layer_norm(v[0], v[1], v[2], d.eps); },
                        .ref = [=](RefInputs v) { return reference(v[0], v[1], &v[2], eps); },
                        // one column: y is the bias whatever x is, and dx is the rounding of 0
                        .grads = d.cols == 1 ? std::vector<int>{1, 2} : std::vector<int>{0, 1, 2},
                        // roundings of a mean of 2.35 while it is summed, over a deviation of 0.2
                        .tol = 4e-6 + 2.35 / 0.2 * sum_tolerance(d.cols) / 4,
                        .grad_tol = 3e-4};
        },
        d.size);
    // Layer norm of one column is constant: a chain with it has no derivative to compare.
    if (d.cols == 1) continue;
    add_fused(list, d, Use::kBoth, "both");
    if (d.size == Size::kBench) continue;
    add_fused(list, d, Use::kNormed, "normed");
    add_fused(list, d, Use::kSum, "sum");
    list.add(
        "norms/in_place" + dims,
        [=](Rand& r) {
          return OpCase{
              .in = {r.normal({d.rows, d.cols}), r.normal({d.cols}), r.normal({d.cols}), r.normal({d.cols})},
              .run =
                  [=](Inputs v) { return scale(layer_norm(rms_norm(v[0], v[1], d.eps), v[2], v[3], d.eps + 0.1f), 2); },
              .ref =
                  [=](RefInputs v) {
                    const double outer = static_cast<double>(d.eps + 0.1f);
                    Ref y = reference(reference(v[0], v[1], nullptr, eps), v[2], &v[3], outer);
                    for (double& e : y.v) e *= 2;
                    return y;
                  },
              .grads = {0, 1, 2, 3},
              .tol = 4e-6,
              .bf16_stores = 3,
              .bf16_grad_stores = 5};
        },
        d.size);
  }
}

}  // namespace tpo::optest
