// Ops on images and positions: what they refuse, and values that a random case does not show.
#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "core/ops/pool.h"
#include "core/ops/position.h"
#include "core/ops/resize.h"
#include "core/ops/rope.h"
#include "core/ops/window.h"
#include "core/parallel_for.h"

namespace tpo {
namespace {

Tensor ones(const Shape& s) { return Tensor::from(std::vector<float>(static_cast<size_t>(s.numel()), 1.0f), s); }

template <class Fn>
void expect_refusal(const std::string& part, const Fn& fn) {
  try {
    fn();
  } catch (const ShapeError& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    return;
  }
  ADD_FAILURE() << "nothing thrown, expected: " << part;
}

TEST(ImageOps, refuse_what_does_not_fit) {
  const Tensor image = ones({1, 4, 6, 2});
  const Tensor whole = Tensor::from(std::vector<int32_t>{0, 0, 0}, {3});
  expect_refusal("x (4, 6)", [] { resize(ones({4, 6}), 2, 2); });
  expect_refusal("to 0 x 2", [&] { resize(image, 0, 2); });
  expect_refusal("H and W at least 1", [] { resize(ones({1, 0, 6, 2}), 2, 2); });
  expect_refusal("not defined for nearest", [&] { resize(image, 2, 2, {ResizeMode::kNearest, true, false}); });
  expect_refusal("x is i32", [&] { resize(whole, 2, 2); });
  expect_refusal("[max_pool2d] padding 2 must be at most half", [&] { max_pool2d(image, {{2, 3}, {1, 1}, {0, 2}}); });
  expect_refusal("stride 0", [&] { avg_pool2d(image, {{2, 2}, {0, 1}}); });
  expect_refusal("smaller than the kernel 5", [&] { avg_pool2d(image, {{5, 1}, {1, 1}}); });
  expect_refusal("more than 256", [] { max_pool2d(ones({1, 20, 20, 1}), {{17, 16}, {1, 1}}); });
  expect_refusal("window 0", [&] { window_partition(image, 0); });
  expect_refusal("must be (N, w, w, C)", [&] { window_merge(image, 4, 6); });
  expect_refusal("are no whole images of 6", [] { window_merge(ones({7, 2, 2, 1}), 4, 6); });
  expect_refusal("divisible by 4", [&] { rope_2d(ones({3, 6}), whole, 1, 1e4f); });
  expect_refusal("positions (3) must be (N, 2)", [&] { rope_2d(ones({3, 8}), whole, 1, 1e4f); });
  expect_refusal("features 3", [] { sine_encoding(4, {3}); });
  expect_refusal("of 0 x 4", [] { sine_encoding_2d(0, 4, {2}); });
  expect_refusal("dtype is i32", [] { sine_encoding(4, {2}, DType::kI32); });
  expect_refusal("frequencies (3, 4)", [] { fourier_encoding(ones({5, 2}), ones({3, 4})); });
}

// The gradient of max_pool2d with dy = 1 for a plane (rows, columns).
std::vector<float> max_pool_gradient(const std::vector<float>& plane, int64_t rows, int64_t cols, const PoolSpec& s) {
  Tape tape;
  const TapeScope scope(tape);
  const Tensor x = tape.watch(Tensor::from(plane, {1, rows, cols, 1})), y = max_pool2d(x, s), dy = ones(y.shape());
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  return tape.grad(x).to_vector<float>();
}

TEST(ImageOps, max_pool_gives_a_tie_to_the_first) {
  EXPECT_EQ(max_pool_gradient({5, 5, 5, 5}, 2, 2, {{2, 2}, {2, 2}}), (std::vector<float>{1, 0, 0, 0}));
  EXPECT_EQ(max_pool_gradient({0, 5, 5, 5, 5, 5}, 2, 3, {{2, 2}, {1, 1}}), (std::vector<float>{0, 2, 0, 0, 0, 0}));
}

TEST(ImageOps, max_pool_keeps_nan_and_minus_infinity) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  const std::vector<float> plane{1, kNan, 2, -kInf};
  const auto pooled = [](const std::vector<float>& v, const Shape& s) {
    return max_pool2d(Tensor::from(v, s), {{1, 3}, {1, 1}, {0, 1}}).to_vector<float>();
  };
  const std::vector<float> y = pooled(plane, {1, 1, 4, 1}), low = pooled({-kInf, -kInf}, {1, 1, 2, 1});
  EXPECT_TRUE(y[0] != y[0] && y[1] != y[1] && y[2] != y[2]);
  EXPECT_EQ(y[3], 2);
  EXPECT_EQ(low, (std::vector<float>{-kInf, -kInf}));
}

TEST(ImageOps, an_infinite_pixel_stays_where_its_weight_is) {
  std::vector<float> v(9, 1.0f);
  v[8] = std::numeric_limits<float>::infinity();
  const Tensor x = Tensor::from(v, {1, 3, 3, 1});
  const std::vector<float> y = resize(x, 6, 6, {ResizeMode::kNearest, false, false}).to_vector<float>();
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i] != 1.0f, i / 6 >= 4 && i % 6 >= 4) << i;
}

TEST(ImageOps, rope_2d_leaves_tokens_at_the_origin) {
  const Tensor x = Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}, {2, 4});
  const Tensor at = Tensor::from(std::vector<int32_t>{0, 0, 3, 1}, {2, 2});
  const std::vector<float> y = rope_2d(x, at, 1, 1e4f).to_vector<float>();
  EXPECT_EQ(std::vector<float>(y.begin(), y.begin() + 4), (std::vector<float>{1, 2, 3, 4}));
  EXPECT_NE(y[4], 5);
}

// Values of x's op and of its gradient with dy = 1.
template <class Fn>
std::vector<float> both_ways(const Fn& op, const Tensor& input) {
  Tape tape;
  const TapeScope scope(tape);
  const Tensor x = tape.watch(input), y = op(x), dy = ones(y.shape());
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  std::vector<float> all = y.to_vector<float>(), g = tape.grad(x).to_vector<float>();
  all.insert(all.end(), g.begin(), g.end());
  return all;
}

TEST(ImageOps, do_not_depend_on_the_number_of_threads) {
  for (const int64_t channels : {2, 11}) {  // fewer than eight take another way
    std::vector<float> v(static_cast<size_t>(3 * 61 * 53 * channels));
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i * 7919 % 1009) / 1009;
    const Tensor x = Tensor::from(v, {3, 61, 53, channels});
    const auto up = [](const Tensor& t) { return resize(t, 130, 70, {ResizeMode::kBicubic, false, false}); };
    const auto down = [](const Tensor& t) { return resize(t, 50, 90, {ResizeMode::kBilinear, false, true}); };
    const auto pool = [](const Tensor& t) { return max_pool2d(t, {{3, 3}, {2, 2}, {1, 1}}); };
    const auto all = [&] { return std::array{both_ways(up, x), both_ways(down, x), both_ways(pool, x)}; };
    const int before = num_threads();
    set_num_threads(1);
    const auto one = all();
    set_num_threads(3);
    const auto three = all();
    set_num_threads(before);
    EXPECT_EQ(one, three);
  }
}

TEST(ImageOps, empty_batches_are_allowed) {
  EXPECT_EQ(resize(ones({0, 3, 3, 2}), 5, 5).shape(), (Shape{0, 5, 5, 2}));
  EXPECT_EQ(max_pool2d(ones({0, 4, 4, 2}), {{2, 2}, {2, 2}}).shape(), (Shape{0, 2, 2, 2}));
  EXPECT_EQ(window_partition(ones({0, 4, 4, 2}), 2).shape(), (Shape{0, 2, 2, 2}));
}

}  // namespace
}  // namespace tpo
