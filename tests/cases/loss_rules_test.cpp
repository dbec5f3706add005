// Rules of losses and their activations that a comparison with a reference does not show: the ends of logits, masked
// garbage, exact values of the task heads, independence of threads, refusals.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/ops/box_loss.h"
#include "core/ops/cosine.h"
#include "core/ops/element_loss.h"
#include "core/ops/loss.h"
#include "core/ops/pointwise.h"
#include "core/ops/prelu.h"
#include "core/ops/row_loss.h"
#include "core/parallel_for.h"
#include "core/rng.h"

namespace tpo {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
using Loss = std::function<Tensor(const Tensor&)>;

Tensor vec(const std::vector<float>& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); }

Tensor random(const char* name, const Shape& shape) {
  std::vector<float> v(static_cast<size_t>(shape.numel()));
  const RngKey key = RngKey(3).with(name);
  for (size_t i = 0; i < v.size(); ++i) v[i] = uniform01(philox(key, i)[0]);
  return Tensor::from(v, shape);
}

struct LossAndGrad {
  float loss;
  std::vector<float> grad;
};

LossAndGrad both(const Tensor& x, const Loss& loss) {
  Tape tape;
  Tensor in, y;
  {
    const TapeScope scope(tape);
    in = tape.watch(x);
    y = loss(in);
  }
  tape.backward(y);
  return {y.item(), tape.grad(in).to_vector<float>()};
}

TEST(LossRules, logits_keep_their_digits_at_both_ends) {
  for (const double x : {-100.0, -80.0, -20.0, -1e-3, 0.0, 1e-3, 20.0, 80.0, 100.0}) {
    const Tensor in = vec({static_cast<float>(x)});
    for (const double t : {0.0, 1.0}) {
      const Tensor target = vec({static_cast<float>(t)});
      const double z = t > 0 ? static_cast<double>(in.item()) : -static_cast<double>(in.item());  // of the label
      const double cost = std::max(-z, 0.0) + std::log1p(std::exp(-std::fabs(z))), other = 1 / (1 + std::exp(z));
      const LossAndGrad bce = both(in, [&](const Tensor& v) { return bce_with_logits(v, target, 1); });
      // Below e^-86.6 results are 0: an absolute error of 3e-38.
      EXPECT_NEAR(bce.loss, cost, 4e-7 * cost + 3e-38) << x << " " << t;
      EXPECT_NEAR(bce.grad[0], t > 0 ? -other : other, 4e-7 * other + 3e-38) << x << " " << t;
      for (const double gamma : {0.5, 2.0}) {
        const LossAndGrad focal =
            both(in, [&](const Tensor& v) { return sigmoid_focal_loss(v, target, -1, static_cast<float>(gamma), 1); });
        // d/dz of q^gamma cost with q' = -q (1 - q)
        const double power = std::pow(other, gamma), slope = -power * (other + gamma * (1 - other) * cost);
        // The power's argument gamma log q reaches 200, good to 2^-23 of itself.
        EXPECT_NEAR(focal.loss, power * cost, 3e-5 * power * cost + 3e-38) << x << " " << t << " " << gamma;
        EXPECT_NEAR(focal.grad[0], t > 0 ? slope : -slope, 3e-5 * std::fabs(slope) + 3e-36) << x << " " << t;
      }
    }
  }
  EXPECT_TRUE(std::isnan(bce_with_logits(vec({kNan}), vec({0}), 1).item()));
}

TEST(LossRules, weight_zero_hides_whatever_stands_there) {
  const Tensor mask = vec({1, 0, 1, 0}), target = random("t", {4, 3}), boxes = random("b", {4, 4});
  const Tensor spans = random("s", {4, 2});
  const std::pair<const char*, Loss> losses[] = {
      {"l1", [&](const Tensor& x) { return l1_loss(x, target, 1, mask); }},
      {"mse", [&](const Tensor& x) { return mse_loss(x, target, 1, mask); }},
      {"smooth", [&](const Tensor& x) { return smooth_l1_loss(x, target, 1, 1, mask); }},
      {"logits", [&](const Tensor& x) { return bce_with_logits(x, target, 1, mask); }},
      {"bce", [&](const Tensor& x) { return bce_loss(x, target, 1, mask); }},
      {"focal", [&](const Tensor& x) { return sigmoid_focal_loss(x, target, 0.25f, 2, 1, mask); }},
      {"hinge", [&](const Tensor& x) { return hinge_loss(x, 2, 1, mask); }},
      {"soft", [&](const Tensor& x) { return soft_cross_entropy(x, target, 1, mask); }},
      {"kl", [&](const Tensor& x) { return kl_loss(x, RowsAs::kLogits, target, RowsAs::kLogits, 1, mask); }},
      {"dice", [&](const Tensor& x) { return dice_loss(x, target, 1, 1, mask); }},
      {"box", [&](const Tensor& x) { return l1_box_loss(x, boxes, 1, mask); }},
      {"giou", [&](const Tensor& x) { return giou_box_loss(x, boxes, 1, mask); }},
      {"span", [&](const Tensor& x) { return giou_span_loss(x, spans, 1, mask); }}};
  for (const auto& [name, loss] : losses) {
    const std::string kind = name;
    const int64_t cols = kind == "span" ? 2 : kind == "box" || kind == "giou" ? 4 : 3;
    const Tensor clean = random("x", {4, cols}), dirty = Tensor::from(clean.to_vector<float>(), {4, cols});
    for (int64_t c = 0; c < cols; ++c) dirty.data<float>()[cols + c] = kNan, dirty.data<float>()[3 * cols + c] = kInf;
    const LossAndGrad a = both(clean, loss), b = both(dirty, loss);
    EXPECT_TRUE(a.loss != 0 && a.loss == b.loss) << name;
    EXPECT_EQ(a.grad, b.grad) << name;
    for (int64_t c = 0; c < cols; ++c) EXPECT_EQ(b.grad[static_cast<size_t>(cols + c)], 0) << name;
  }
}

TEST(LossRules, values_that_the_heads_count_on) {
  // Equal saliency in 3 x 2 pairs under margin 0.2 and the factor 2: exactly 0.4 (single precision's 0.2, twice).
  EXPECT_FLOAT_EQ(hinge_loss(sub(vec(std::vector<float>(6, 3)), vec(std::vector<float>(6, 3))), 0.2f, 2.0f / 6).item(),
                  0.4f);
  EXPECT_EQ(hinge_loss(vec({0.2f}), 0.2f, 1).item(), 0);
  // A probability that sums to a little more than 1 is no accident.
  EXPECT_NEAR(bce_loss(vec({1.0000002f}), vec({1}), 1).item(), 0, 1e-9);
  EXPECT_NEAR(bce_loss(vec({1.0000002f}), vec({0}), 1).item(), -std::log(1e-6), 1e-5);
  // Equal distributions: no divergence, no pull. A key of attention 0 where the target has none costs nothing.
  const Tensor x = random("d", {1, 64});
  const LossAndGrad same = both(x, [&](const Tensor& v) { return kl_loss(v, RowsAs::kLogits, x, RowsAs::kLogits, 1); });
  EXPECT_NEAR(same.loss, 0, 2e-6);
  for (float g : same.grad) EXPECT_NEAR(g, 0, 1e-8);
  const Tensor q = Tensor::from(std::vector<float>{0.5f, 0.5f, 0}, {1, 3});
  EXPECT_NEAR(kl_loss(q, RowsAs::kProbs, q, RowsAs::kProbs, 1).item(), 0, 1e-7);
  // Masked logits of -inf take part in a cross-entropy with weight 0.
  const Tensor masked = Tensor::from(std::vector<float>{1, 1, -kInf}, {1, 3});
  EXPECT_NEAR(soft_cross_entropy(masked, q, 1).item(), std::log(2.0), 1e-6);
  // An empty mask predicted empty: nothing to say.
  EXPECT_NEAR(dice_loss(Tensor::from(std::vector<float>(8, -90), {2, 4}), Tensor::zeros({2, 4}), 1, 1).item(), 0, 1e-7);
  EXPECT_NEAR(giou_span_loss(Tensor::from(std::vector<float>{0.5f, 0.25f}, {1, 2}),
                             Tensor::from(std::vector<float>{0.5f, 0.25f}, {1, 2}), 1)
                  .item(),
              0, 1e-7);
}

TEST(LossRules, losses_and_gradients_have_the_same_bits_for_any_number_of_threads) {
  const Tensor x = random("x", {613, 257}), t = random("t", {613, 257}), rows = random("w", {613});
  const Tensor slope = random("a", {257}), shared = random("b", {1});
  const Loss losses[] = {[&](const Tensor& v) { return bce_with_logits(v, t, 1, rows); },
                         [&](const Tensor& v) { return sigmoid_focal_loss(v, t, 0.25f, 2, 1); },
                         [&](const Tensor& v) { return soft_cross_entropy(v, t, 1, rows); },
                         [&](const Tensor& v) {
                           return dice_loss(v.view({1, 613 * 257}), t.view({1, 613 * 257}), 1, 1);
                         },
                         [&](const Tensor& v) { return l1_loss(prelu(v, slope), t, 1); },
                         [&](const Tensor& v) { return mse_loss(prelu(normalize_rows(v), shared), softplus(t), 1); },
                         [&](const Tensor& v) { return hinge_loss(cosine_similarity(v, t), 1, 1, rows); }};
  const int before = num_threads();
  for (size_t i = 0; i < std::size(losses); ++i) {
    std::vector<LossAndGrad> results;
    for (const int threads : {1, 2, 5}) {
      set_num_threads(threads);
      results.push_back(both(x, losses[i]));
      EXPECT_EQ(results.back().loss, results[0].loss) << i;
      EXPECT_EQ(results.back().grad, results[0].grad) << i;
    }
  }
  set_num_threads(before);
}

template <class E, class Fn>
void expect_refused(const Fn& fn, const std::string& part) {
  try {
    fn();
    ADD_FAILURE() << "nothing thrown, expected: " << part;
  } catch (const E& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(LossRules, refusals_name_the_op_and_the_shapes) {
  const Tensor x = random("x", {4, 6}), y = random("y", {6, 4}), four = random("c", {4});
  const Tensor half = Tensor::empty({4, 6}, DType::kBF16), ids = Tensor::from(std::vector<int32_t>{0, 5, 6, 1}, {4});
  const auto shape = [](const auto& fn, const std::string& part) { expect_refused<ShapeError>(fn, part); };
  shape([&] { l1_loss(x, y, 1); }, "[l1_loss] x (4, 6) and target (6, 4)");
  shape([&] { mse_loss(x, half, 1); }, "[mse_loss] target is bf16");
  shape([&] { bce_loss(x, x, 1, y); }, "[bce_loss] weight (6, 4)");
  shape([&] { bce_with_logits(ids, ids, 1); }, "[bce_with_logits] x is i32");
  shape([&] { smooth_l1_loss(x, x, 0, 1); }, "beta is 0");
  shape([&] { sigmoid_focal_loss(x, x, 0, -1, 1); }, "gamma is -1");
  shape([&] { hinge_loss(x, 1, 1, half); }, "[hinge_loss] weight is bf16");
  shape([&] { soft_cross_entropy(x, x, 1, random("w", {6})); }, "[soft_cross_entropy] weight (6) must be (4)");
  shape([&] { kl_loss(x, RowsAs::kProbs, x, RowsAs::kLogProbs, 1); }, "[kl_loss]");
  shape([&] { dice_loss(x, x, 0, 1); }, "eps is 0");
  shape([&] { cross_entropy(y, ids, 1); }, "[cross_entropy] labels (4)");
  shape([&] { cross_entropy(x, ids, 1, four); }, "class_weight (4) must be (6)");
  expect_refused<DataError>([&] { cross_entropy(x, ids, 1); }, "label of row 2 is 6");
  shape([&] { giou_span_loss(x, x, 1); }, "must both be (R, 2)");
  shape([&] { giou_box_loss(y, y, 1, four); }, "weight (4) must be (6)");
  shape([&] { prelu(x, four); }, "[prelu] slope (4) must be (1) or (C) for x (4, 6)");
  shape([&] { softplus(x, 0); }, "beta is 0");
  shape([&] { cosine_similarity(x, y); }, "(4, 6) and (6, 4)");
  shape([&] { normalize_rows(x, 0); }, "eps is 0");
}

}  // namespace
}  // namespace tpo
