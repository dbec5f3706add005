#include "checkpoint/assignment.h"

#include "tests/checkpoint/checkpoint_support.h"

namespace tpo {
namespace {

// tensor:begin+count@rank, with the rectangle in brackets unless it is the whole tensor.
std::string str(const std::vector<LogicalTensor>& tensors, int ranks) {
  std::string s;
  for (const PieceTask& p : assign_pieces(tensors, ranks)) {
    const Rect& r = p.part.rect;
    s += cat(s.empty() ? "" : " ", p.tensor, ":");
    if (r != whole_of(tensors[p.tensor].full)) s += cat('[', r.row, '+', r.rows, ',', r.col, '+', r.cols, ']');
    s += cat(p.part.begin, "+", p.part.count, "@", p.rank);
  }
  return s;
}

// By rank, the parts of a tensor.
using Held = std::vector<std::vector<Part>>;
Part run(const Shape& full, int64_t begin, int64_t count) { return {whole_of(full), begin, count}; }
Part block(int64_t row, int64_t rows, int64_t col, int64_t cols) { return {{row, rows, col, cols}, 0, rows * cols}; }

TEST(Assignment, largest_first_to_the_least_loaded) {
  const auto all = [](const char* name, int64_t n) { return LogicalTensor{name, {n}, 4, Held(2, {run({n}, 0, n)})}; };
  EXPECT_EQ(str({all("a", 3), all("b", 10), all("c", 5), all("d", 0)}, 2), "0:0+3@1 1:0+10@0 2:0+5@1");
}

TEST(Assignment, large_tensors_are_cut) {
  const int64_t n = 3 * (kMaxPieceBytes / 8) + 1;
  const auto pieces = assign_pieces({{"a", {n}, 8, Held(4, {run({n}, 0, n)})}}, 4);
  ASSERT_EQ(pieces.size(), 4u);
  EXPECT_EQ(pieces[3].part.count, 1);
  for (int r = 0; r < 4; ++r) EXPECT_EQ(pieces[r].rank, r);
}

TEST(Assignment, only_holders_write) {
  const Shape s{10};
  EXPECT_EQ(str({{"a", s, 4, {{run(s, 0, 6)}, {run(s, 4, 6)}, {}}}}, 3), "0:0+4@0 0:4+2@0 0:6+4@1");
}

TEST(Assignment, rectangles) {
  const Shape s{4, 6};
  const Part left = block(0, 4, 0, 3), right = block(0, 4, 3, 3), top = block(0, 2, 0, 6), bottom = block(2, 2, 0, 6);
  const Part all = run(s, 0, 24);
  const struct {
    const char* what;
    Held held;
    const char* pieces;
  } cases[] = {
      {"columns", {{left}, {right}}, "0:[0+4,0+3]0+12@0 0:[0+4,3+3]0+12@1"},
      {"rows are runs of the whole", {{top}, {bottom}}, "0:0+12@0 0:12+12@1"},
      {"what one rank holds in two blocks is one piece", {{bottom, top}}, "0:0+24@0"},
      {"copies of columns share the work", {{left}, {right}, {left}, {right}}, "0:[0+4,0+3]0+12@0 0:[0+4,3+3]0+12@1"},
      {"shards of columns",
       {{{left.rect, 0, 7}}, {{left.rect, 7, 5}}, {right}},
       "0:[0+4,0+3]0+7@0 0:[0+4,0+3]7+5@1 0:[0+4,3+3]0+12@2"},
      {"the whole and a part", {{all}, {left}}, "0:[0+4,0+3]0+12@0 0:[0+4,3+3]0+12@0"},
      {"columns under rows",
       {{top, {left.rect, 6, 6}}, {right}},
       "0:[0+2,3+3]0+6@1 0:[0+4,0+3]0+12@0 0:[2+2,3+3]0+6@1"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(str({{"a", s, 4, c.held}}, static_cast<int>(c.held.size())), c.pieces) << c.what;
  }
}

TEST(Assignment, gaps_and_parts_outside_are_refused) {
  const Shape s{2, 5};
  const struct {
    Held held;
    const char* part;
  } cases[] = {
      {{{run(s, 0, 9)}}, "no rank holds element (1, 4) of tensor a (2, 5)"},
      {{{}, {}}, "no rank holds element (0, 0)"},
      {{{block(0, 2, 0, 2)}, {block(0, 2, 3, 2)}}, "no rank holds element (0, 2)"},
      {{{block(0, 2, 0, 4)}, {block(0, 1, 3, 2)}}, "no rank holds element (1, 4)"},
      {{{run(s, 0, 11)}}, "rank 0 holds elements 0 to 11 of tensor a, which is (2, 5)"},
      {{{run(s, -1, 11)}}, "rank 0 holds"},
      {{{run(s, 0, 10)}, {{whole_of(s), 5, INT64_MAX - 5}}}, "rank 1 holds"},
      {{{block(0, 2, 0, 6)}}, "of rows 0 to 2, columns 0 to 6 of tensor a"},
      {{{block(1, 2, 0, 5)}}, "of rows 1 to 3"},
      {{{{{0, 2, 0, 2}, 1, 4}}}, "elements 1 to 5 of rows 0 to 2, columns 0 to 2"},
  };
  for (const auto& c : cases) {
    EXPECT_NE(message_of<ConfigError>([&] {
                assign_pieces({{"a", s, 4, c.held}}, 2);
              }).find(c.part),
              std::string::npos)
        << c.part;
  }
}

}  // namespace
}  // namespace tpo
