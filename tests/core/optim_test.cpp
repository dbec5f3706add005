// AdamW against a loop in double, the schedule at its ends, and what clipping and the NaN guard read.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/optim/adamw.h"
#include "core/optim/clip.h"
#include "core/optim/lr_schedule.h"
#include "core/parallel_for.h"
#include "core/rng.h"
#include "core/stream.h"

namespace tpo {
namespace {

Tensor random(const char* name, int64_t n, float scale = 1) {
  std::vector<float> v(static_cast<size_t>(n));
  const RngKey key = RngKey(3).with(name);
  for (size_t i = 0; i < v.size(); ++i) v[i] = scale * (2 * uniform01(philox(key, i)[0]) - 1);
  return Tensor::from(v, {n});
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.nbytes())) == 0;
}

// The thread count for one scope.
struct Threads {
  explicit Threads(int n) : before(num_threads()) { set_num_threads(n); }
  ~Threads() { set_num_threads(before); }
  int before;
};

struct State {
  explicit State(int64_t n) : param(random("param", n)), m(Tensor::zeros({n})), v(Tensor::zeros({n})) {}
  Tensor param, m, v;
};

const AdamWParams kParams{.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-6f, .weight_decay = 0.1f};

TEST(AdamWStep, follows_the_formula_in_double_for_twenty_steps) {
  const int64_t n = 1237;
  AdamWParams p = kParams;
  p.grad_scale = 0.5f;
  State s(n);
  std::vector<double> param(static_cast<size_t>(n)), m(param.size()), v(param.size());
  for (size_t i = 0; i < param.size(); ++i) param[i] = static_cast<double>(s.param.data<float>()[i]);
  const double b1 = static_cast<double>(p.beta1), b2 = static_cast<double>(p.beta2), lr = static_cast<double>(p.lr);
  for (int64_t step = 1; step <= 20; ++step) {
    const Tensor grad = random(cat("grad", step).c_str(), n, step % 7 == 0 ? 30.0f : 0.1f);
    adamw_step(s.param, grad, s.m, s.v, p, step);
    const double t = static_cast<double>(step);
    for (size_t i = 0; i < param.size(); ++i) {
      const double g = 0.5 * static_cast<double>(grad.data<float>()[i]);
      m[i] = b1 * m[i] + (1 - b1) * g;
      v[i] = b2 * v[i] + (1 - b2) * g * g;
      const double mhat = m[i] / (1 - std::pow(b1, t)), vhat = v[i] / (1 - std::pow(b2, t));
      param[i] -= lr * static_cast<double>(p.weight_decay) * param[i];
      param[i] -= lr * mhat / (std::sqrt(vhat) + static_cast<double>(p.eps));
    }
  }
  // Each step rounds a value of size 1 a few times at 2^-24: 20 steps stay below 20 * 4 * 6e-8.
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    ASSERT_NEAR(static_cast<double>(s.param.data<float>()[i]), param[at], 5e-6) << i;
    ASSERT_NEAR(static_cast<double>(s.m.data<float>()[i]), m[at], 2e-6 * std::fabs(m[at]) + 2e-6) << i;
    ASSERT_NEAR(static_cast<double>(s.v.data<float>()[i]), v[at], 5e-6 * v[at]) << i;
  }
}

TEST(AdamWStep, first_step_moves_by_the_learning_rate_whatever_the_gradient) {
  AdamWParams p = kParams;
  p.weight_decay = 0;
  p.eps = 1e-30f;
  for (const float g : {1e-6f, -1.0f, 1e6f}) {
    State s(1);
    const float before = s.param.item();
    adamw_step(s.param, Tensor::from(std::vector<float>{g}, {1}), s.m, s.v, p, 1);
    EXPECT_NEAR(s.param.item(), before - std::copysign(0.01f, g), 1e-7f);
  }
}

TEST(AdamWStep, zero_learning_rate_moves_moments_only) {
  AdamWParams p = kParams;
  p.lr = 0;
  State s(100);
  adamw_step(s.param, random("grad", 100), s.m, s.v, p, 1);
  EXPECT_TRUE(same_bits(s.param, random("param", 100)));
  EXPECT_FALSE(same_bits(s.m, Tensor::zeros({100})));
}

TEST(AdamWStep, has_the_same_bits_for_any_cut_of_the_buffer_and_any_number_of_threads) {
  const int64_t n = 100003;
  const Tensor grad = random("grad", n);
  State whole(n), cut(n), threads(n);
  {
    const Threads one(1);
    adamw_step(whole.param, grad, whole.m, whole.v, kParams, 3);
    const std::vector<int64_t> at{0, 1, 1030, 50001, n};
    for (size_t i = 0; i + 1 < at.size(); ++i) {
      Tensor p = cut.param.rows(at[i], at[i + 1]), m = cut.m.rows(at[i], at[i + 1]), v = cut.v.rows(at[i], at[i + 1]);
      adamw_step(p, grad.rows(at[i], at[i + 1]), m, v, kParams, 3);
    }
  }
  {
    const Threads three(3);
    adamw_step(threads.param, grad, threads.m, threads.v, kParams, 3);
  }
  for (const State* s : {&cut, &threads}) {
    EXPECT_TRUE(same_bits(whole.param, s->param));
    EXPECT_TRUE(same_bits(whole.m, s->m));
    EXPECT_TRUE(same_bits(whole.v, s->v));
  }
}

TEST(AdamWStep, refuses_bad_lengths_and_values_before_any_effect) {
  State s(8);
  const Tensor grad = random("grad", 8);
  EXPECT_THROW(adamw_step(s.param, random("grad", 7), s.m, s.v, kParams, 1), ShapeError);
  EXPECT_THROW(adamw_step(s.param, Tensor(), s.m, s.v, kParams, 1), ShapeError);
  EXPECT_THROW(adamw_step(s.param, grad, s.m, s.v, kParams, 0), ConfigError);
  AdamWParams p = kParams;
  p.beta2 = 1;
  EXPECT_THROW(adamw_step(s.param, grad, s.m, s.v, p, 1), ConfigError);
  p = kParams;
  p.eps = 0;
  EXPECT_THROW(adamw_step(s.param, grad, s.m, s.v, p, 1), ConfigError);
  EXPECT_TRUE(same_bits(s.param, random("param", 8)));
  EXPECT_TRUE(same_bits(s.m, Tensor::zeros({8})));
}

TEST(AdamWStep, is_one_launch_and_counts_28_bytes_an_element_on_meta) {
  const auto stream = Stream::make_meta();
  const StreamScope scope(*stream);
  Tensor param = Tensor::empty({1000}), grad = Tensor::empty({1000}), m = Tensor::empty({1000}),
         v = Tensor::empty({1000});
  adamw_step(param, grad, m, v, kParams, 1);
  EXPECT_EQ(stream->counters().launches, 1);
  EXPECT_EQ(stream->counters().read_bytes + stream->counters().write_bytes, 28000);
}

TEST(LrSchedule, has_the_stated_values_at_its_ends) {
  const LrSchedule s{.base = 2, .warmup_steps = 10, .total_steps = 110, .floor_ratio = 0.1};
  EXPECT_DOUBLE_EQ(s.at(0), 0.2);
  EXPECT_DOUBLE_EQ(s.at(9), 2);
  EXPECT_DOUBLE_EQ(s.at(10), 2);
  EXPECT_NEAR(s.at(60), 1.1, 1e-12);  // half way: the mean of base and floor
  EXPECT_NEAR(s.at(110), 0.2, 1e-12);
  EXPECT_NEAR(s.at(1000000), 0.2, 1e-12);
  for (int64_t k = 10; k < 110; ++k) EXPECT_GE(s.at(k), s.at(k + 1)) << k;
}

TEST(LrSchedule, works_without_warm_up_and_without_decay) {
  const LrSchedule plain{.base = 1, .warmup_steps = 0, .total_steps = 4, .floor_ratio = 0};
  EXPECT_DOUBLE_EQ(plain.at(0), 1);
  EXPECT_NEAR(plain.at(2), 0.5, 1e-12);
  EXPECT_NEAR(plain.at(4), 0, 1e-12);
  const LrSchedule flat{.base = 1, .warmup_steps = 3, .total_steps = 3, .floor_ratio = 1};
  EXPECT_DOUBLE_EQ(flat.at(2), 1);
  EXPECT_DOUBLE_EQ(flat.at(7), 1);
}

TEST(LrSchedule, refuses_fields_out_of_range) {
  EXPECT_THROW((LrSchedule{.base = -1}.at(0)), ConfigError);
  EXPECT_THROW((LrSchedule{.floor_ratio = 1.5}.at(0)), ConfigError);
  EXPECT_THROW((LrSchedule{.warmup_steps = 5, .total_steps = 4}.at(0)), ConfigError);
  EXPECT_THROW(LrSchedule{}.at(-1), ConfigError);
}

TEST(Clip, sum_of_squares_equals_a_double_loop_with_the_same_bits_for_any_number_of_threads) {
  for (const int64_t n : {0, 1, 1023, 300007}) {
    const Tensor x = random("x", n, 3);
    double want = 0;
    for (int64_t i = 0; i < n; ++i) want += static_cast<double>(x.data<float>()[i]) * x.data<float>()[i];
    std::vector<double> got;
    for (const int threads : {1, 2, 3}) {
      const Threads scope(threads);
      got.push_back(grad_sum_squares(x));
    }
    EXPECT_NEAR(got[0], want, 1e-12 * want) << n;
    EXPECT_EQ(got[0], got[1]) << n;
    EXPECT_EQ(got[0], got[2]) << n;
  }
}

TEST(Clip, largest_floats_do_not_overflow_and_bad_ones_show) {
  const float big = std::numeric_limits<float>::max(), inf = std::numeric_limits<float>::infinity();
  Tensor x = Tensor::from(std::vector<float>(5000, big), {5000});
  EXPECT_TRUE(std::isfinite(grad_sum_squares(x)));
  EXPECT_TRUE(check_finite(x));
  x.data<float>()[4999] = std::numeric_limits<float>::quiet_NaN();
  x.data<float>()[17] = -inf;
  EXPECT_EQ(count_non_finite(x), 2);
  EXPECT_FALSE(check_finite(x));
  EXPECT_FALSE(std::isfinite(grad_sum_squares(x)));
  x.data<float>()[17] = inf;
  EXPECT_EQ(count_non_finite(x), 2);
  EXPECT_TRUE(check_finite(Tensor::zeros({0})));
}

TEST(Clip, scales_to_the_largest_norm) {
  Tensor x = Tensor::from(std::vector<float>{3, -4, 0}, {3});
  const double factor = clip_factor(std::sqrt(grad_sum_squares(x)), 2.5);
  EXPECT_DOUBLE_EQ(factor, 0.5);
  scale_(x, static_cast<float>(factor));
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{1.5f, -2, 0}));
  EXPECT_EQ(clip_factor(2, 2.5), 1);
  EXPECT_EQ(clip_factor(0, 2.5), 1);
  EXPECT_EQ(clip_factor(100, 0), 1);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(clip_factor(nan, 1)));
}

}  // namespace
}  // namespace tpo
