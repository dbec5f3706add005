// Rules of pointwise, norm, reduce, layout, dropout and box ops that a comparison with a reference does not show:
// independence of threads and packing, ties, NaN, sharing of memory, refusals.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/ops/box_loss.h"
#include "core/ops/cast.h"
#include "core/ops/dropout.h"
#include "core/ops/layout.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "core/ops/softmax.h"
#include "core/parallel_for.h"

namespace tpo {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

Tensor random(const char* name, const Shape& shape) {
  std::vector<float> v(static_cast<size_t>(shape.numel()));
  const RngKey key = RngKey(9).with(name);
  for (size_t i = 0; i < v.size(); ++i) v[i] = 4 * uniform01(philox(key, i)[0]) - 2;
  return Tensor::from(v, shape);
}

Tensor row_ids(const std::vector<int64_t>& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); }

struct Threads {
  explicit Threads(int n) : before(num_threads()) { set_num_threads(n); }
  ~Threads() { set_num_threads(before); }
  int before;
};

// Output and input gradients of fn, as one list of bits.
std::vector<float> everything(const std::vector<Tensor>& in, Tensor (*fn)(std::span<const Tensor>)) {
  Tape tape;
  std::vector<Tensor> watched;
  Tensor y;
  {
    const TapeScope scope(tape);
    for (const Tensor& t : in) watched.push_back(tape.watch(t));
    y = fn(watched);
  }
  const Tensor dy = random("dy", y.shape());
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  std::vector<float> all = y.to_vector<float>();
  for (const Tensor& t : watched) {
    const auto g = tape.grad(t).to_vector<float>();
    all.insert(all.end(), g.begin(), g.end());
  }
  return all;
}

TEST(OpRules, results_have_the_same_bits_for_any_number_of_threads) {
  struct Named {
    const char* name;
    std::vector<Tensor> in;
    Tensor (*fn)(std::span<const Tensor>);
  };
  using In = std::span<const Tensor>;
  const Tensor x = random("x", {611, 257}), b = random("b", {611, 257}), c = random("c", {257}), d = random("d", {257});
  const Named ops[] = {
      {"gelu", {x}, [](In v) { return gelu(v[0]); }},
      {"swiglu", {x, b}, [](In v) { return swiglu(v[0], v[1]); }},
      {"mul", {x, b}, [](In v) { return mul(v[0], v[1]); }},
      {"add_bias", {x, c}, [](In v) { return add_bias(v[0], v[1]); }},
      {"rms_norm", {x, c}, [](In v) { return rms_norm(v[0], v[1]); }},
      {"layer_norm", {x, c, d}, [](In v) { return layer_norm(v[0], v[1], v[2], 1e-6f); }},
      {"add_rms_norm",
       {x, b, c},
       [](In v) {
         const NormedSum n = add_rms_norm(v[0], v[1], v[2]);
         return add(n.sum, n.normed);
       }},
      {"softmax", {x}, [](In v) { return softmax(v[0]); }},
      {"sum_all", {x}, [](In v) { return sum_all(v[0]); }},
      {"mean_pool_rows", {x}, [](In v) { return mean_pool_rows(v[0], 13); }},
      {"transpose", {x}, [](In v) { return transpose(v[0]); }},
  };
  for (const Named& op : ops) {
    std::vector<std::vector<float>> results;
    for (const int threads : {1, 2, 5}) {
      const Threads scope(threads);
      results.push_back(everything(op.in, op.fn));
    }
    for (size_t i = 1; i < results.size(); ++i)
      EXPECT_EQ(std::memcmp(results[0].data(), results[i].data(), results[0].size() * sizeof(float)), 0) << op.name;
  }
}

TEST(OpRules, activations_are_exact_at_zero_and_sane_at_the_ends) {
  const Tensor x = Tensor::from(std::vector<float>{0, 100, -100, 3e38f, -3e38f, kNan}, {6});
  for (const auto op : {gelu, gelu_tanh, silu}) {
    const auto y = op(x).to_vector<float>();
    EXPECT_EQ(y[0], 0);
    EXPECT_EQ(y[1], 100);
    EXPECT_NEAR(y[2], 0, 1e-30f);
    EXPECT_EQ(y[3], 3e38f);
    EXPECT_EQ(y[4], 0);
    EXPECT_TRUE(std::isnan(y[5]));
  }
  const auto s = sigmoid(x).to_vector<float>();
  EXPECT_EQ(s[0], 0.5f);
  EXPECT_EQ(s[1], 1);
  EXPECT_NEAR(s[2], 0, 1e-30f);
  EXPECT_TRUE(std::isnan(s[5]));
  EXPECT_TRUE(std::isnan(relu(x).to_vector<float>()[5]));
}

TEST(OpRules, softmax_takes_infinities_as_masks_and_large_values) {
  const auto y = softmax(Tensor::from(std::vector<float>{1000, 1000, -kInf, -1000}, {1, 4})).to_vector<float>();
  EXPECT_EQ(y, (std::vector<float>{0.5f, 0.5f, 0, 0}));
}

TEST(OpRules, argmax_takes_the_first_of_equals_and_nan_first) {
  const Tensor x = Tensor::from(std::vector<float>{1, 3, 3, 2, -kInf, -kInf, -kInf, -kInf, 5, kNan, 9, kNan}, {3, 4});
  EXPECT_EQ(argmax_rows(x).to_vector<int32_t>(), (std::vector<int32_t>{1, 0, 1}));
}

TEST(OpRules, rows_are_cut_without_a_copy_and_joined_in_any_dtype) {
  const Tensor ids = Tensor::from(std::vector<int32_t>{1, 2, 3, 4, 5}, {5});
  const Tensor tail = slice_rows(ids, 3, 5);
  EXPECT_EQ(tail.storage_id(), ids.storage_id());
  EXPECT_EQ(concat_rows({tail, ids}).to_vector<int32_t>(), (std::vector<int32_t>{4, 5, 1, 2, 3, 4, 5}));
}

// ---- dropout

TEST(DropoutRules, a_row_keeps_its_mask_wherever_and_with_whatever_it_is_packed) {
  const RngKey key(4);
  const int64_t cols = 203;
  const Tensor x = random("x", {3, cols});
  const std::vector<float> together = dropout(x, 0.4f, key, row_ids({70, -8, 5000000000})).to_vector<float>();
  const std::vector<int64_t> ids{70, -8, 5000000000};
  for (int64_t r = 0; r < 3; ++r) {
    const auto alone = dropout(x.rows(r, r + 1), 0.4f, key, row_ids({ids[static_cast<size_t>(r)]})).to_vector<float>();
    EXPECT_EQ(std::memcmp(alone.data(), &together[static_cast<size_t>(r * cols)], alone.size() * sizeof(float)), 0);
  }
  const auto other_key = dropout(x, 0.4f, RngKey(5), row_ids(ids)).to_vector<float>();
  EXPECT_NE(together, other_key);
}

TEST(DropoutRules, keeps_the_stated_share_and_the_expectation) {
  const int64_t rows = 200, cols = 500;
  std::vector<int64_t> ids(static_cast<size_t>(rows));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i);
  const Tensor ones = Tensor::from(std::vector<float>(static_cast<size_t>(rows * cols), 1), {rows, cols});
  const auto y = dropout(ones, 0.1f, RngKey(6), row_ids(ids)).to_vector<float>();
  double sum = 0, dropped = 0;
  for (float v : y) {
    EXPECT_TRUE(v == 0 || std::fabs(v - 1 / 0.9f) < 1e-6f);
    sum += static_cast<double>(v);
    dropped += v == 0;
  }
  // 100000 draws: the share's deviation is sqrt(0.1 * 0.9 / 1e5) = 0.00095; five of them.
  EXPECT_NEAR(dropped / 1e5, 0.1, 0.005);
  EXPECT_NEAR(sum / 1e5, 1, 0.006);
}

TEST(DropoutRules, backward_uses_the_mask_of_forward_and_threads_do_not_change_it) {
  const Tensor x = random("x", {300, 129});
  std::vector<int64_t> ids(300);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(1000 - 3 * i);
  std::vector<std::vector<float>> values;
  for (const int threads : {1, 2}) {
    const Threads scope(threads);
    Tape tape;
    Tensor in, y;
    {
      const TapeScope tape_scope(tape);
      in = tape.watch(x);
      y = dropout(in, 0.5f, RngKey(8), row_ids(ids));
    }
    tape.backward(std::span(&y, 1), std::span(&x, 1));  // dy = x: then dx must equal y
    EXPECT_EQ(tape.grad(in).to_vector<float>(), y.to_vector<float>());
    values.push_back(y.to_vector<float>());
  }
  EXPECT_EQ(values[0], values[1]);
}

TEST(DropoutRules, both_storages_have_the_same_mask) {
  const Tensor x = Tensor::from(std::vector<float>(3 * 203, 1), {3, 203}), ids = row_ids({70, -8, 5000000000});
  const auto wide = dropout(x, 0.4f, RngKey(4), ids).to_vector<float>();
  const auto half = dropout(cast(x, DType::kBF16), 0.4f, RngKey(4), ids).to_vector<BF16>();
  for (size_t i = 0; i < wide.size(); ++i) EXPECT_EQ(BF16(wide[i]).bits, half[i].bits) << i;
}

TEST(DropoutRules, p_of_zero_returns_the_tensor_itself) {
  const Tensor x = random("x", {2, 3});
  EXPECT_EQ(dropout(x, 0, RngKey(1), Tensor()).storage_id(), x.storage_id());
}

// ---- box losses

struct LossAndGrad {
  float loss;
  std::vector<float> grad;
};

LossAndGrad giou(const std::vector<float>& pred, const std::vector<float>& target) {
  const Shape shape{static_cast<int64_t>(pred.size()) / 4, 4};
  Tape tape;
  Tensor p, y;
  {
    const TapeScope scope(tape);
    p = tape.watch(Tensor::from(pred, shape));
    y = giou_box_loss(p, Tensor::from(target, shape), 1);
  }
  tape.backward(y);
  return {y.item(), tape.grad(p).to_vector<float>()};
}

TEST(BoxLossRules, equal_boxes_cost_nothing_and_pull_nowhere) {
  const std::vector<float> box{0.25f, 0.25f, 0.75f, 0.5f};
  const LossAndGrad r = giou(box, box);
  EXPECT_EQ(r.loss, 0);
  EXPECT_EQ(r.grad, std::vector<float>(4, 0));
}

TEST(BoxLossRules, an_inverted_box_costs_two_without_gradient_beside_a_valid_one) {
  const LossAndGrad r = giou({0.6f, 0.2f, 0.1f, 0.7f, 0.0f, 0.0f, 0.5f, 0.5f}, {0, 0, 1, 1, 0, 0, 1, 1});
  EXPECT_FLOAT_EQ(r.loss, 2 + 0.75f);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(r.grad[i], 0);
  EXPECT_LT(r.grad[6], 0);  // growing to the right and downwards helps
  EXPECT_LT(r.grad[7], 0);
}

TEST(BoxLossRules, disjoint_boxes_are_pulled_together) {
  const LossAndGrad r = giou({0.0f, 0.0f, 0.2f, 0.2f}, {0.6f, 0.6f, 0.8f, 0.8f});
  EXPECT_GT(r.loss, 1);
  EXPECT_LT(r.grad[2], 0);
  EXPECT_LT(r.grad[3], 0);
}

TEST(BoxLossRules, degenerate_boxes_give_finite_numbers_and_nan_stays_visible) {
  const std::vector<float> point{0.5f, 0.5f, 0.5f, 0.5f}, box{0.2f, 0.2f, 0.6f, 0.6f};
  for (const auto& pred : {point, std::vector<float>{0.5f, 0.1f, 0.5f, 0.9f}})
    for (const auto& target : {point, box}) {
      const LossAndGrad r = giou(pred, target);
      EXPECT_TRUE(std::isfinite(r.loss));
      EXPECT_LE(r.loss, 2);
      for (float g : r.grad) EXPECT_TRUE(std::isfinite(g));
    }
  for (size_t i = 0; i < 4; ++i) {
    std::vector<float> pred = box;
    pred[i] = kNan;
    EXPECT_TRUE(std::isnan(giou(pred, {0.1f, 0.1f, 0.3f, 0.9f}).loss)) << i;
    const Shape shape{1, 4};
    EXPECT_TRUE(std::isnan(l1_box_loss(Tensor::from(pred, shape), Tensor::from(box, shape), 1).item())) << i;
  }
}

// ---- refusals

template <class Fn>
void expect_refused(const Fn& fn, const std::string& part) {
  try {
    fn();
    ADD_FAILURE() << "nothing thrown, expected: " << part;
  } catch (const ShapeError& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(OpRefusals, name_the_op_and_the_shapes) {
  const Tensor x = random("x", {4, 6}), y = random("y", {6, 4}), c = random("c", {4});
  const Tensor ids = Tensor::from(std::vector<int32_t>{1, 2, 3, 4}, {4});
  expect_refused([&] { add(x, y); }, "[add] shapes differ: (4, 6) and (6, 4)");
  expect_refused([&] { mul(x, Tensor()); }, "[mul] second operand is undefined");
  expect_refused([&] { gelu(ids); }, "[gelu] x is i32");
  expect_refused([&] { add_bias(x, c); }, "[add_bias] bias (4)");
  expect_refused([&] { swiglu(x, y); }, "[swiglu]");
  expect_refused([&] { rms_norm(x, c); }, "[rms_norm] gain (4) must be (C) for x (4, 6)");
  expect_refused([&] { rms_norm(y, c, 0); }, "eps is 0");
  expect_refused([&] { add_rms_norm(y, x, c); }, "[add_rms_norm] shapes differ");
  expect_refused([&] { layer_norm(y, c, random("b", {6}), 1e-5f); }, "[layer_norm] bias (6)");
  expect_refused([&] { softmax(Tensor::zeros({3, 0})); }, "[softmax]");
  expect_refused([&] { mean_pool_rows(x, 3); }, "[mean_pool_rows] x (4, 6)");
  expect_refused([&] { mean_pool_rows(x, 0); }, "group 0");
  expect_refused([&] { argmax_rows(c); }, "[argmax_rows]");
  expect_refused([&] { concat_rows({x, y}); }, "[concat_rows] part (6, 4)");
  expect_refused([&] { concat_rows({}); }, "at least one");
  expect_refused([&] { slice_rows(x, 2, 5); }, "[slice_rows] rows [2, 5) of (4, 6)");
  expect_refused([&] { transpose(c); }, "[transpose]");
  expect_refused([&] { patchify(random("i", {1, 2, 3, 6, 3}), 4, 1); }, "[patchify] images (1, 2, 3, 6, 3)");
  expect_refused([&] { patchify(random("i", {1, 3, 4, 4, 3}), 2, 2); }, "tubelet 2");
  expect_refused([&] { merge_patches(x, 2, 2, 3); }, "[merge_patches]");
  expect_refused([&] { dropout(x, 1, RngKey(1), row_ids({1, 2, 3, 4})); }, "p is 1");
  expect_refused([&] { dropout(x, 0.5f, RngKey(1), row_ids({1, 2, 3})); }, "row_ids (3)");
  expect_refused([&] { l1_box_loss(x, x, 1); }, "[l1_box_loss] pred (4, 6)");
  expect_refused([&] { giou_box_loss(random("p", {2, 4}), random("t", {3, 4}), 1); }, "target (3, 4)");
}

}  // namespace
}  // namespace tpo
