#include "core/rng.h"

#include <gtest/gtest.h>

#include <set>

namespace tpo {
namespace {

// Known-answer vectors of Random123 1.14 (tests/kat_vectors, philox4x32 10 rounds).
TEST(rng, philox_matches_the_published_vectors) {
  RngKey key;
  EXPECT_EQ(philox(key, 0, 0), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  key.value = ~0ull;
  EXPECT_EQ(philox(key, ~0ull, ~0ull), (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  key.value = 0x299f31d0a4093822ull;
  EXPECT_EQ(philox(key, 0x85a308d3243f6a88ull, 0x0370734413198a2eull),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(rng, keys_depend_on_order_and_every_part) {
  const RngKey a = RngKey(1).with("x").with(2);
  EXPECT_NE(a.value, RngKey(1).with(2).with("x").value);
  EXPECT_NE(a.value, RngKey(2).with("x").with(2).value);
  EXPECT_NE(a.value, RngKey(1).with("x").with(3).value);
  EXPECT_EQ(a.value, RngKey(1).with("x").with(2).value);
}

TEST(rng, normals_have_the_right_moments) {
  double sum = 0, squares = 0;
  const int n = 200000;
  for (int i = 0; i < n; ++i) {
    const auto w = philox(RngKey(7), static_cast<uint64_t>(i));
    const auto z = normal2(w[0], w[1]);
    sum += z[0] + z[1];
    squares += static_cast<double>(z[0]) * z[0] + static_cast<double>(z[1]) * z[1];
  }
  EXPECT_NEAR(sum / (2 * n), 0, 5 / std::sqrt(2.0 * n));  // 5 standard errors
  EXPECT_NEAR(squares / (2 * n), 1, 5 * std::sqrt(2.0 / (2.0 * n)));
}

TEST(rng, uniform_below_stays_below_and_reaches_all) {
  std::set<uint64_t> seen;
  for (uint64_t i = 0; i < 1000; ++i) {
    const uint64_t x = uniform_below(RngKey(3), i, 7);
    ASSERT_LT(x, 7u);
    seen.insert(x);
  }
  EXPECT_EQ(seen.size(), 7u);
}

}  // namespace
}  // namespace tpo
