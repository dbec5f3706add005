// The vector types against the standard library: native ones where this machine has them, their twins elsewhere.
#include "core/kernels/simd.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace tpo::simd {
namespace {

template <class V>
class Simd : public testing::Test {
 protected:
  static constexpr int kN = V::kLanes;
  template <class Fn>
  static float last_lane(Fn fn, float x) {
    float y[kN];
    fn(V(x)).store(y);
    return y[kN - 1];
  }
  static float exp_of(float x) {
    return last_lane([](V v) { return exp(v); }, x);
  }
  static float exp2_of(float x) {
    return last_lane([](V v) { return exp2(v); }, x);
  }
};
using Widths = testing::Types<F8, F16>;
TYPED_TEST_SUITE(Simd, Widths);

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TYPED_TEST(Simd, exponentials_are_good_to_2e7_where_they_are_normal) {
  double worst = 0, worst2 = 0;
  for (int i = 0; i <= 1000000; ++i) {
    const float t = static_cast<float>(i) / 1e6f, x = -87.3f + 175.6f * t, x2 = -126.0f + 253.0f * t;
    const double want = std::exp(static_cast<double>(x)), want2 = std::exp2(static_cast<double>(x2));
    worst = std::max(worst, std::fabs(this->exp_of(x) - want) / want);
    worst2 = std::max(worst2, std::fabs(this->exp2_of(x2) - want2) / want2);
  }
  EXPECT_LT(worst, 2e-7);
  EXPECT_LT(worst2, 2e-7);
}

TYPED_TEST(Simd, exponentials_at_the_ends) {
  for (const auto& [one, low] : {std::pair{this->exp_of(0.0f), this->exp_of(-1e30f)},
                                 {this->exp2_of(0.0f), this->exp2_of(-200.0f)},
                                 {this->exp2_of(-0.0f), this->exp2_of(-kInfinity)}}) {
    EXPECT_EQ(one, 1.0f);
    EXPECT_EQ(low, 0.0f);
  }
  EXPECT_EQ(this->exp_of(-kInfinity), 0.0f);
  EXPECT_LE(this->exp2_of(-126.6f), std::exp2(-126.0f));
  EXPECT_GT(this->exp_of(200.0f), 2e38f);
  EXPECT_TRUE(std::isnan(this->exp_of(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(this->exp2_of(std::numeric_limits<float>::quiet_NaN())));
}

TYPED_TEST(Simd, arithmetic_and_reductions) {
  constexpr int kN = TypeParam::kLanes;
  float x[kN], y[kN];
  float sum = 0, top = 0;
  for (int i = 0; i < kN; ++i) {
    x[i] = static_cast<float>((i * 37) % 64), y[i] = static_cast<float>(i + 1);
    sum += x[i], top = std::max(top, x[i]);
  }
  const TypeParam a = TypeParam::load(x), b = TypeParam::load(y), c(3.0f);
  EXPECT_EQ(hsum(a), sum);  // small whole numbers: any order is exact
  EXPECT_EQ(hmax(a), top);
  const auto expect = [&](TypeParam got, auto want) {
    float out[kN];
    got.store(out);
    for (int i = 0; i < kN; ++i) EXPECT_EQ(out[i], want(x[i], y[i])) << i;
  };
  expect(a + b, [](float p, float q) { return p + q; });
  expect(a - b, [](float p, float q) { return p - q; });
  expect(a * b, [](float p, float q) { return p * q; });
  expect(a / b, [](float p, float q) { return p / q; });
  expect(fma(a, b, c), [](float p, float q) { return p * q + 3; });
  expect(fnma(a, b, c), [](float p, float q) { return 3 - p * q; });
  expect(max(a, b), [](float p, float q) { return std::max(p, q); });
  expect(min(a, b), [](float p, float q) { return std::min(p, q); });
  expect(select_less(a, b, a, c), [](float p, float q) { return p < q ? p : 3.0f; });
  expect(round(a * TypeParam(0.3f)), [](float p, float) { return std::nearbyint(p * 0.3f); });
}

TEST(Transpose8, moves_rows_to_columns) {
  float x[64], y[64];
  for (int i = 0; i < 64; ++i) x[i] = static_cast<float>(i);
  transpose8(x, 8, y, 8);
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) EXPECT_EQ(y[j * 8 + i], x[i * 8 + j]);
}

}  // namespace
}  // namespace tpo::simd
