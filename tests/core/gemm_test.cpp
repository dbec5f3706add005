// multiply_panels against plain loops in double, and that an element is the same bits wherever it is computed.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/kernels/gemm_panels.h"
#include "core/parallel_for.h"
#include "core/rng.h"

namespace tpo {
namespace {

std::vector<float> uniform(int64_t n, uint64_t seed) {
  std::vector<float> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) v[i] = uniform01(philox(RngKey(seed), i)[0]) - 0.5f;
  return v;
}

class Threads {
 public:
  explicit Threads(int n) : before_(num_threads()) { set_num_threads(n); }
  ~Threads() { set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

struct Case {
  int64_t m, n, k;
  float alpha, beta;
};

// Below, at and beyond a tile, a block of rows, a piece of the depth, the packed width; few columns; few rows.
const Case kCases[] = {{1, 1, 1, 1, 0},     {7, 5, 3, 1, 1},        {8, 32, 256, 1, 0},    {9, 33, 257, 2, 0},
                       {97, 48, 40, 1, 1},  {130, 8, 300, 0.5f, 1}, {200, 3, 9, 1, 0.25f}, {33, 31, 513, 1, 0},
                       {5, 530, 70, -1, 1}, {40, 1031, 17, 1, 0},   {64, 16, 64, 1, 0},    {104, 96, 12, 3, -2}};

Gemm product(const Case& c, const std::vector<float>& a, const std::vector<float>& b, std::vector<float>& out, bool ta,
             bool tb) {
  return {a.data(), b.data(), out.data(), c.m, c.n, c.k, ta, tb, c.alpha, c.beta};
}

TEST(GemmPanels, equals_loops_in_double) {
  for (const Case& c : kCases) {
    const auto a = uniform(c.m * c.k, 1), b = uniform(c.k * c.n, 2), before = uniform(c.m * c.n, 3);
    for (const int t : {0, 1, 2, 3}) {
      const bool ta = (t & 1) != 0, tb = (t & 2) != 0;
      auto out = before;
      if (c.beta == 0) out.assign(out.size(), std::numeric_limits<float>::quiet_NaN());  // must not be read
      multiply_panels(product(c, a, b, out, ta, tb), false);
      for (int64_t i = 0; i < c.m; ++i) {
        for (int64_t j = 0; j < c.n; ++j) {
          double sum = 0, size = 0;
          for (int64_t k = 0; k < c.k; ++k) {
            const double term = static_cast<double>(a[static_cast<size_t>(ta ? k * c.m + i : i * c.k + k)]) *
                                static_cast<double>(b[static_cast<size_t>(tb ? j * c.k + k : k * c.n + j)]);
            sum += term, size += std::abs(term);
          }
          const double old = c.beta == 0 ? 0 : c.beta * static_cast<double>(before[static_cast<size_t>(i * c.n + j)]);
          // Each of k additions, and of the few that join alpha, beta and pieces, rounds by 2^-24 of what is summed.
          const double bound =
              std::ldexp(static_cast<double>(c.k + 6), -24) * (std::abs(c.alpha) * size + std::abs(old));
          ASSERT_NEAR(out[static_cast<size_t>(i * c.n + j)], c.alpha * sum + old, bound)
              << c.m << ' ' << c.n << ' ' << c.k << ' ' << ta << tb << " at " << i << ',' << j;
        }
      }
    }
  }
}

// Rows of a product, and a product on several threads, are the bits of the whole on one.
TEST(GemmPanels, bits_depend_neither_on_rows_nor_on_threads) {
  for (const Case& c : kCases) {
    const auto a = uniform(c.m * c.k, 1), b = uniform(c.k * c.n, 2), before = uniform(c.m * c.n, 3);
    for (const int t : {0, 1, 2, 3}) {
      const bool ta = (t & 1) != 0, tb = (t & 2) != 0;
      auto whole = before;
      multiply_panels(product(c, a, b, whole, ta, tb), false);
      for (const int threads : {2, 3}) {
        const Threads scope(threads);
        auto shared = before;
        multiply_panels(product(c, a, b, shared, ta, tb), true);
        EXPECT_EQ(std::memcmp(whole.data(), shared.data(), 4 * whole.size()), 0)
            << c.m << ' ' << c.n << ' ' << c.k << ' ' << ta << tb << ", " << threads << " threads";
      }
      if (ta) continue;  // rows of a transposed operand do not lie together
      Case some = c;
      some.m = (c.m + 1) / 2;
      auto part = before;
      multiply_panels(product(some, a, b, part, ta, tb), false);
      EXPECT_EQ(std::memcmp(whole.data(), part.data(), static_cast<size_t>(4 * some.m * c.n)), 0)
          << c.m << ' ' << c.n << ' ' << c.k << ' ' << ta << tb << ", half of the rows";
    }
  }
}

}  // namespace
}  // namespace tpo
