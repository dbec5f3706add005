// The vector type against the standard library.
#include "core/kernels/simd.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace tpo::simd {
namespace {

float exp_of(float x) {
  float y[kLanes];
  exp(F8(x)).store(y);
  return y[3];
}

TEST(Simd, exp_is_good_to_2e7_where_it_is_normal) {
  double worst = 0;
  for (int i = 0; i <= 1000000; ++i) {
    const float x = -87.3f + 175.6f * static_cast<float>(i) / 1e6f;
    const double want = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::fabs(exp_of(x) - want) / want);
  }
  EXPECT_LT(worst, 2e-7);
}

TEST(Simd, exp_at_the_ends) {
  EXPECT_EQ(exp_of(0.0f), 1.0f);
  EXPECT_EQ(exp_of(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_EQ(exp_of(-1e30f), 0.0f);
  EXPECT_GT(exp_of(200.0f), 2e38f);
  EXPECT_TRUE(std::isnan(exp_of(std::numeric_limits<float>::quiet_NaN())));
}

TEST(Simd, reductions_and_transposition) {
  float x[64], y[64];
  for (int i = 0; i < 64; ++i) x[i] = static_cast<float>((i * 37) % 64);
  float sum = 0, top = 0;
  for (int i = 0; i < 8; ++i) sum += x[i], top = std::max(top, x[i]);
  EXPECT_EQ(hsum(F8::load(x)), sum);  // small whole numbers: any order is exact
  EXPECT_EQ(hmax(F8::load(x)), top);
  transpose8(x, 8, y, 8);
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) EXPECT_EQ(y[j * 8 + i], x[i * 8 + j]);
}

}  // namespace
}  // namespace tpo::simd
