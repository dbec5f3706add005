// What index, segment, bmm, select and the layout ops beside them refuse, and rules that a comparison with a reference
// does not show: NaN, ties, equal results on any number of threads.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "core/ops/bmm.h"
#include "core/ops/embedding.h"
#include "core/ops/index.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "core/ops/segment.h"
#include "core/ops/select.h"
#include "core/parallel_for.h"
#include "tests/op_case.h"

namespace tpo {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

Tensor ones(const Shape& s) { return Tensor::from(std::vector<float>(static_cast<size_t>(s.numel()), 1.0f), s); }
Tensor ints(const std::vector<int32_t>& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); }

template <class E>
void expect_refused(const std::function<void()>& fn, const std::string& part) {
  try {
    fn();
    ADD_FAILURE() << "nothing thrown, expected: " << part;
  } catch (const E& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(IndexErrors, name_the_place_and_the_value) {
  const auto two = [](std::vector<int32_t> v) { return ints(v).view({2, 2}); };
  expect_refused<DataError>([&] { gather_last(ones({2, 3}), two({0, 2, 3, 0})); }, "idx[2] is 3, must be in 0..2");
  expect_refused<DataError>([&] { scatter_add_last(ones({2, 2}), two({0, -1, 0, 0}), 3); }, "idx[1] is -1");
  expect_refused<DataError>([] { scatter_add_rows(ones({2, 2}), ints({0, 5}), 5); }, "idx[1] is 5, must be in 0..4");
  expect_refused<DataError>([] { one_hot(ints({4}), 4); }, "idx[0] is 4");
  expect_refused<ShapeError>([&] { gather_last(ones({3, 3}), two({0, 0, 0, 0})); }, "leading dims of (3, 3)");
  expect_refused<ShapeError>([] { scatter_add_last(ones({2, 2}), ints({0, 0}), 3); }, "shape of src (2, 2)");
  expect_refused<ShapeError>([] { scatter_add_rows(ones({2, 2}), ints({0}), 3); }, "idx (1)");
  expect_refused<ShapeError>([] { top_k(ones({2, 3}), 4); }, "k is 4");
  expect_refused<ShapeError>([] { one_hot(ints({0}), 3, DType::kI32); }, "i32");
}

TEST(SegmentErrors, cu_must_rise_from_0_to_the_rows) {
  expect_refused<DataError>([] { segment_sum(ones({3, 1}), ints({0, 2})); }, "runs from 0 to 2, must run from 0 to 3");
  expect_refused<DataError>([] { segment_max(ones({3, 1}), ints({0, 2, 1, 3})); }, "cu[2] = 1 is below");
  expect_refused<ShapeError>([] { segment_mean(ones({3}), ints({0, 3})); }, "must be (N, C)");
}

TEST(BmmErrors, print_both_shapes) {
  expect_refused<ShapeError>([] { bmm(ones({2, 3, 4}), ones({2, 3, 4})); }, "b (2, 3, 4)");
  expect_refused<ShapeError>([] { bmm(ones({2, 3, 4}), ones({3, 4, 3})); }, "a (2, 3, 4)");
  EXPECT_NO_THROW(bmm(ones({2, 3, 4}), ones({2, 3, 4}), {false, true}));
}

TEST(SelectErrors, masks_are_bytes_of_the_same_shape) {
  const Tensor mask = Tensor::from(std::vector<uint8_t>{1, 0}, {2});
  expect_refused<ShapeError>([&] { where(mask, ones({2}), ones({3})); }, "(2) and (3)");
  expect_refused<ShapeError>([&] { masked_fill(ones({2, 1}), mask, 0); }, "(2, 1)");
  expect_refused<ShapeError>([&] { masked_fill(ones({2}), ones({2}), 0); }, "must be u8");
  expect_refused<ShapeError>([] { clamp(ones({2}), 1, 0); }, "lo 1 is above hi 0");
}

TEST(LayoutErrors, of_columns_and_tables) {
  expect_refused<ShapeError>([] { concat_last({ones({2, 3}), ones({3, 3})}); }, "part (3, 3)");
  expect_refused<ShapeError>([] { concat_last({}); }, "at least one");
  expect_refused<ShapeError>([] { split_last(ones({2, 5}), {2, 2}); }, "add to 4");
  expect_refused<ShapeError>([] { swap_middle(ones({2, 3, 4})); }, "(A, B, C, D)");
  expect_refused<ShapeError>([] { add_table(ones({2, 3, 4}), ones({1, 4, 4})); }, "must be (1, 3, 4)");
  expect_refused<ShapeError>([] { mean_rows(ones({0, 3})); }, "nothing to take the mean of");
  expect_refused<ShapeError>([] { mean_last(ones({3, 0})); }, "nothing to take the mean of");
}

TEST(TopKRules, nan_is_first_both_zeros_are_equal_and_infinities_have_their_place) {
  const TopK top = top_k(Tensor::from(std::vector<float>{-kInf, -0.0f, 1, -kNan, 0.0f, kInf}, {6}), 6);
  EXPECT_EQ(top.indices.to_vector<int32_t>(), (std::vector<int32_t>{3, 5, 2, 1, 4, 0}));
}

TEST(TopKRules, rising_rows_longer_than_what_is_collected) {  // every element beats the ones before
  std::vector<float> v(5000);
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i);
  EXPECT_EQ(top_k(Tensor::from(v, {5000}), 3).indices.to_vector<int32_t>(), (std::vector<int32_t>{4999, 4998, 4997}));
}

TEST(SegmentRules, nan_is_the_maximum_and_the_first_of_equal_rows_gets_the_gradient) {
  Tape tape;
  Tensor x = Tensor::from(std::vector<float>{1, 5, 2, 5, 2, kNan, 0, kNan}, {4, 2}), y;
  {
    const TapeScope scope(tape);
    x = tape.watch(x);
    y = segment_max(x, ints({0, 4, 4}));
  }
  EXPECT_EQ(y.to_vector<float>()[0], 2);
  EXPECT_TRUE(std::isnan(y.to_vector<float>()[1]));
  EXPECT_EQ(y.to_vector<float>()[3], 0);
  const Tensor dy = ones({2, 2});
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  EXPECT_EQ(tape.grad(x).to_vector<float>(), (std::vector<float>{0, 0, 1, 0, 0, 1, 0, 0}));
}

TEST(PointwiseRules, equal_operands_share_the_gradient_and_nan_stays) {
  Tape tape;
  Tensor a = ones({1}), y;
  {
    const TapeScope scope(tape);
    a = tape.watch(a);
    y = maximum(a, ones({1}));
  }
  tape.backward(y);
  EXPECT_EQ(tape.grad(a).item(), 0.5f);
  const Tensor nan = Tensor::from(std::vector<float>{kNan}, {1});
  for (const Tensor& t : {maximum(nan, ones({1})), maximum(ones({1}), nan), minimum(nan, ones({1})),
                          minimum(ones({1}), nan), clamp(nan, 0, 1)})
    EXPECT_TRUE(std::isnan(t.item()));
}

// These ops have no sum that threads cut differently: the large cases give the same bits on 1, 2 and 3 threads.
TEST(ThreadRules, results_do_not_depend_on_the_number_of_threads) {
  const int before = num_threads();
  int compared = 0;
  for (const optest::CaseEntry& e : optest::all_cases().entries) {
    const std::string op = e.name.substr(0, e.name.find('/'));
    bool mine = false;
    for (const char* name :
         {"gather_last", "scatter_add_last", "scatter_add_rows", "top_k", "segment_sum", "segment_max", "cumsum_last",
          "cumsum_rows", "sum_rows", "sum_last", "swap_middle", "concat_last", "where"})
      mine |= op == name;
    if (!mine || e.size != optest::Size::kLarge) continue;
    const optest::OpCase c = e.build();
    std::vector<std::vector<float>> values;
    for (const int threads : {1, 2, 3}) {
      set_num_threads(threads);
      values.push_back(c.run(c.in).to_vector<float>());
    }
    for (size_t i : {size_t{1}, size_t{2}})
      EXPECT_EQ(std::memcmp(values[0].data(), values[i].data(), values[0].size() * sizeof(float)), 0) << e.name;
    ++compared;
  }
  set_num_threads(before);
  EXPECT_GE(compared, 13);
}

}  // namespace
}  // namespace tpo
