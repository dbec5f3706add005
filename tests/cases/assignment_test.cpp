// Assignment: against all permutations where they can be counted, beyond by a certificate: costs are whole numbers, so
// that double is exact, and prices that satisfy duality prove that nothing is cheaper.
#include "core/kernels/assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/ops/assignment.h"
#include "core/parallel_for.h"
#include "core/rng.h"
#include "core/stream.h"

namespace tpo {
namespace {

class Numbers {
 public:
  explicit Numbers(const char* name) : key_(RngKey(5).with(name)) {}
  uint64_t below(uint64_t n) { return uniform_below(key_, counter_++, n); }
  std::vector<float> whole(int64_t n, uint64_t range) {
    std::vector<float> v(static_cast<size_t>(n));
    const uint64_t half = range / 2;
    for (float& x : v) x = static_cast<float>(below(range)) - static_cast<float>(half);
    return v;
  }

 private:
  RngKey key_;
  uint64_t counter_ = 0;
};

// The least total over all ways to give the smaller side partners, the larger side permuted.
double cheapest(const std::vector<float>& cost, int64_t Q, int64_t T, int64_t n) {
  const int64_t few = std::min(Q, n), many = std::max(Q, n);
  std::vector<int64_t> order(static_cast<size_t>(many));
  std::iota(order.begin(), order.end(), 0);
  double best = std::numeric_limits<double>::infinity();
  do {
    double sum = 0;
    for (int64_t i = 0; i < few; ++i) {
      const int64_t j = order[static_cast<size_t>(i)];
      sum += static_cast<double>(cost[static_cast<size_t>(n <= Q ? j * T + i : i * T + j)]);
    }
    best = std::min(best, sum);
    std::reverse(order.begin() + few, order.end());  // skips the orders of those left over
  } while (std::next_permutation(order.begin(), order.end()));
  return best;
}

// Checks the shape of a matching (min(Q, n) pairs, all three tensors telling the same) and returns its total.
double total(const Matching& m, const std::vector<float>& cost, int64_t Q, int64_t T, int64_t n, int64_t b = 0) {
  const int32_t *query = m.query.data<int32_t>() + b * T, *target = m.target.data<int32_t>() + b * Q;
  double sum = 0;
  int64_t pairs = 0, backwards = 0;
  for (int64_t t = 0; t < T; ++t) {
    const int64_t q = query[t];
    EXPECT_EQ(m.row.data<int32_t>()[b * T + t], b * Q + std::max<int64_t>(q, 0));
    if (q < 0) continue;
    EXPECT_TRUE(t < n && q < Q);
    EXPECT_EQ(target[q], t);
    sum += static_cast<double>(cost[static_cast<size_t>((b * Q + q) * T + t)]);
    ++pairs;
  }
  for (int64_t q = 0; q < Q; ++q) backwards += target[q] >= 0;
  EXPECT_EQ(pairs, std::min(Q, n));
  EXPECT_EQ(backwards, pairs);
  return sum;
}

TEST(Assignment, no_permutation_is_cheaper) {
  Numbers random("permutations");
  for (int64_t Q = 1; Q <= 7; ++Q)
    for (int64_t T = 1; T <= 7; ++T)
      for (const uint64_t range : {3, 20, 1 << 20}) {  // 3: nearly everything ties
        const std::vector<float> cost = random.whole(Q * T, range);
        const auto n = static_cast<int32_t>(range == 20 ? random.below(static_cast<uint64_t>(T) + 1) : T);
        const Matching m = hungarian_match(Tensor::from(cost, {1, Q, T}), Tensor::from(std::vector{n}, {1}));
        EXPECT_EQ(total(m, cost, Q, T, n), cheapest(cost, Q, T, n)) << Q << "x" << T << ", " << n << ", " << range;
      }
}

TEST(Assignment, prices_prove_that_nothing_is_cheaper) {
  Numbers random("certificate");
  for (const auto& [rows, cols] : {std::pair<int32_t, int32_t>{1, 1}, {5, 97}, {64, 64}, {97, 101}, {31, 300}})
    for (const uint64_t range : {2, 10, 1000, 1 << 20}) {
      const std::vector<float> cost = random.whole(int64_t{rows} * cols, range);
      std::vector<double> memory(static_cast<size_t>(AssignScratch::words(rows, cols)));
      const AssignScratch s = AssignScratch::at(memory.data(), rows, cols);
      assign_rows(cost.data(), cols, 1, rows, cols, s);
      std::vector<int> seen(static_cast<size_t>(rows));
      for (int32_t j = 0; j < cols; ++j) {
        const int32_t mine = s.row_of[j];
        EXPECT_LE(s.v[j], 0);
        EXPECT_TRUE(mine >= 0 || s.v[j] == 0) << "a free column has a price";
        if (mine >= 0) ++seen[static_cast<size_t>(mine)];
        for (int32_t i = 0; i < rows; ++i) {
          const double slack = static_cast<double>(cost[static_cast<size_t>(int64_t{i} * cols + j)]) - s.u[i] - s.v[j];
          EXPECT_GE(slack, 0);
          EXPECT_TRUE(i != mine || slack == 0) << slack;
        }
      }
      EXPECT_EQ(seen, std::vector<int>(static_cast<size_t>(rows), 1));
    }
}

TEST(Assignment, both_ways_round_cost_the_same_and_threads_do_not_matter) {
  Numbers random("both ways");
  const int64_t B = 9, Q = 40, T = 60;
  const std::vector<float> cost = random.whole(B * Q * T, 50);
  std::vector<float> turned(cost.size());
  for (int64_t b = 0; b < B; ++b)
    for (int64_t q = 0; q < Q; ++q)
      for (int64_t t = 0; t < T; ++t)
        turned[static_cast<size_t>((b * T + t) * Q + q)] = cost[static_cast<size_t>((b * Q + q) * T + t)];
  const auto all = [&](int64_t n) { return Tensor::from(std::vector<int32_t>(B, static_cast<int32_t>(n)), {B}); };
  const int before = num_threads();
  set_num_threads(1);
  const Matching one = hungarian_match(Tensor::from(cost, {B, Q, T}), all(T));
  set_num_threads(4);
  const Matching four = hungarian_match(Tensor::from(cost, {B, Q, T}), all(T));
  set_num_threads(before);
  EXPECT_EQ(one.query.to_vector<int32_t>(), four.query.to_vector<int32_t>());
  const Matching back = hungarian_match(Tensor::from(turned, {B, T, Q}), all(Q));
  for (int64_t b = 0; b < B; ++b) EXPECT_EQ(total(one, cost, Q, T, T, b), total(back, turned, T, Q, Q, b));
}

TEST(Assignment, equal_costs_go_in_order_and_labels_follow) {
  const Matching m = hungarian_match(Tensor::from(std::vector<float>(24, 1), {2, 4, 3}),
                                     Tensor::from(std::vector<int32_t>{2, 0}, {2}));
  EXPECT_EQ(m.query.to_vector<int32_t>(), (std::vector<int32_t>{0, 1, -1, -1, -1, -1}));
  EXPECT_EQ(m.target.to_vector<int32_t>(), (std::vector<int32_t>{0, 1, -1, -1, -1, -1, -1, -1}));
  EXPECT_EQ(m.row.to_vector<int32_t>(), (std::vector<int32_t>{0, 1, 0, 4, 4, 4}));
  const Tensor classes = Tensor::from(std::vector<int32_t>{7, 8, 9, 1, 2, 3}, {2, 3});
  EXPECT_EQ(match_labels(m, classes, 5).to_vector<int32_t>(), (std::vector<int32_t>{7, 8, 5, 5, 5, 5, 5, 5}));
}

TEST(Assignment, refuses_what_has_no_order_and_names_the_batch) {
  const auto refusal = [](float cost, int32_t count) -> std::string {
    std::vector<float> costs(12, 1);
    costs[9] = cost;  // batch 1, query 1, target 1
    try {
      hungarian_match(Tensor::from(costs, {2, 3, 2}), Tensor::from(std::vector<int32_t>{2, count}, {2}));
    } catch (const DataError& e) {
      return e.what();
    }
    return "";
  };
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    EXPECT_NE(refusal(bad, 2).find("batch 1, query 1, target 1"), std::string::npos);
    EXPECT_EQ(refusal(bad, 1), "") << "target 1 is not real";
  }
  EXPECT_NE(refusal(1, 3).find("counts[1] is 3"), std::string::npos);
  EXPECT_NE(refusal(1, -1).find("counts[1] is -1"), std::string::npos);
  EXPECT_THROW(hungarian_match(Tensor::zeros({2, 3}), Tensor::from(std::vector<int32_t>{1, 1}, {2})), ShapeError);
}

// Where values cannot be looked at before the launch, the kernel itself leaves such a batch without pairs.
TEST(Assignment, a_kernel_given_nonsense_makes_no_pairs_and_stays_inside_its_rows) {
  constexpr int64_t B = 4, Q = 3, T = 2;
  std::vector<float> costs(B * Q * T, 1);
  costs[2 * Q * T + 1] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<int32_t> counts{T + 1, -1, T, T};
  std::vector<int32_t> query(B * T, 7), target(B * Q, 7), row(B * T, 7);
  HungarianMatch k{costs.data(), counts.data(), query.data(), target.data(), row.data(), nullptr, B, Q, T, DType::kF32};
  std::vector<double> scratch(static_cast<size_t>(B * k.scratch_words()));
  k.scratch = scratch.data();
  run(k, Cpu{}, Stream::current());
  EXPECT_EQ(query, (std::vector<int32_t>{-1, -1, -1, -1, -1, -1, 0, 1}));
  EXPECT_EQ(target, (std::vector<int32_t>{-1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, -1}));
  EXPECT_EQ(row, (std::vector<int32_t>{0, 0, 3, 3, 6, 6, 9, 10}));
}

}  // namespace
}  // namespace tpo
