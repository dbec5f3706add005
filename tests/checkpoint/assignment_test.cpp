#include "checkpoint/assignment.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace tpo {
namespace {

std::string str(const std::vector<PieceTask>& pieces) {
  std::string s;
  for (const PieceTask& p : pieces) s += cat(s.empty() ? "" : " ", p.tensor, ":", p.begin, "+", p.count, "@", p.rank);
  return s;
}

TEST(Assignment, largest_first_to_the_least_loaded) {
  const auto all = [](int64_t n) { return std::vector<HeldRange>(2, HeldRange{0, n}); };
  EXPECT_EQ(
      str(assign_pieces({{"a", 3, 4, all(3)}, {"b", 10, 4, all(10)}, {"c", 5, 4, all(5)}, {"d", 0, 4, all(0)}}, 2)),
      "0:0+3@1 1:0+10@0 2:0+5@1");
}

TEST(Assignment, large_tensors_are_cut) {
  const int64_t n = 3 * (kMaxPieceBytes / 8) + 1;
  const auto pieces = assign_pieces({{"a", n, 8, std::vector<HeldRange>(4, HeldRange{0, n})}}, 4);
  ASSERT_EQ(pieces.size(), 4u);
  EXPECT_EQ(pieces[3].count, 1);
  for (int r = 0; r < 4; ++r) EXPECT_EQ(pieces[r].rank, r);
}

TEST(Assignment, only_holders_write) {
  EXPECT_EQ(str(assign_pieces({{"a", 10, 4, {{0, 6}, {4, 6}, {0, 0}}}}, 3)), "0:0+4@0 0:4+2@0 0:6+4@1");
}

TEST(Assignment, gaps_and_ranges_outside_are_refused) {
  EXPECT_THROW(assign_pieces({{"a", 10, 4, {{0, 9}}}}, 1), ConfigError);
  EXPECT_THROW(assign_pieces({{"a", 10, 4, {{0, 11}}}}, 1), ConfigError);
  EXPECT_THROW(assign_pieces({{"a", 10, 4, {{-1, 11}}}}, 1), ConfigError);
  EXPECT_THROW(assign_pieces({{"a", 10, 4, {{5, INT64_MAX}}}}, 1), ConfigError);
}

}  // namespace
}  // namespace tpo
