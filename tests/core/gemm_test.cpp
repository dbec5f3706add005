// Products of fp32, by register tiles and by BLAS, against plain loops in double; of the tiles, that an element is the
// same bits wherever it is computed.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
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

// Who makes a product: run(Gemm) is one of the last two, as the processor of the build says.
const struct {
  const char* name;
  void (*multiply)(const Gemm&);
} kMakers[] = {{"panels", [](const Gemm& g) { multiply_panels(g, false); }},
               {"panels, one row by BLAS", [](const Gemm& g) { multiply_f32(g, true); }},
               {"BLAS", [](const Gemm& g) { multiply_f32(g, false); }}};

void expect_loops(const Case& c, bool ta, bool tb, const std::vector<float>& a, const std::vector<float>& b,
                  const std::vector<float>& before, const std::vector<float>& out) {
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
      const double bound = std::ldexp(static_cast<double>(c.k + 6), -24) * (std::abs(c.alpha) * size + std::abs(old));
      ASSERT_NEAR(out[static_cast<size_t>(i * c.n + j)], c.alpha * sum + old, bound) << "at " << i << ',' << j;
    }
  }
}

TEST(Gemm, equals_loops_in_double) {
  for (const auto& maker : kMakers) {
    for (const Case& c : kCases) {
      const auto a = uniform(c.m * c.k, 1), b = uniform(c.k * c.n, 2), before = uniform(c.m * c.n, 3);
      for (const int t : {0, 1, 2, 3}) {
        const bool ta = (t & 1) != 0, tb = (t & 2) != 0;
        SCOPED_TRACE(::testing::Message() << maker.name << ": " << c.m << ' ' << c.n << ' ' << c.k << ' ' << ta << tb);
        auto out = before;
        if (c.beta == 0) out.assign(out.size(), std::numeric_limits<float>::quiet_NaN());  // must not be read
        maker.multiply(product(c, a, b, out, ta, tb));
        expect_loops(c, ta, tb, a, b, before, out);
      }
    }
  }
}

// Rows [r0, r0 + rows) and columns [c0, c0 + cols) of op(x), an (r, c) matrix, lying as x does.
std::vector<float> part_of(const std::vector<float>& x, int64_t r, int64_t c, bool trans, int64_t r0, int64_t rows,
                           int64_t c0, int64_t cols) {
  if (trans) std::swap(r, c), std::swap(r0, c0), std::swap(rows, cols);
  std::vector<float> part;
  for (int64_t i = r0; i < r0 + rows; ++i)
    part.insert(part.end(), x.begin() + i * c + c0, x.begin() + i * c + c0 + cols);
  return part;
}

// A part of a result computed alone, and the whole on several threads, are the bits of the whole on one.
TEST(GemmPanels, bits_depend_neither_on_rows_nor_on_columns_nor_on_threads) {
  for (const Case& c : kCases) {
    const auto a = uniform(c.m * c.k, 1), b = uniform(c.k * c.n, 2), before = uniform(c.m * c.n, 3);
    for (const int t : {0, 1, 2, 3}) {
      const bool ta = (t & 1) != 0, tb = (t & 2) != 0;
      SCOPED_TRACE(::testing::Message() << c.m << ' ' << c.n << ' ' << c.k << ' ' << ta << tb);
      auto whole = before;
      multiply_panels(product(c, a, b, whole, ta, tb), false);
      for (const int threads : {2, 3}) {
        const Threads scope(threads);
        auto shared = before;
        multiply_panels(product(c, a, b, shared, ta, tb), true);
        EXPECT_EQ(std::memcmp(whole.data(), shared.data(), 4 * whole.size()), 0) << threads << " threads";
      }
      const struct {
        int64_t r0, rows, c0, cols;
      } parts[] = {{0, (c.m + 1) / 2, 0, c.n},
                   {c.m / 3, c.m - c.m / 3, 0, c.n},
                   {0, c.m, 0, (c.n + 1) / 2},
                   {0, c.m, c.n / 3, c.n - c.n / 3},
                   {c.m / 3, 1, 0, c.n},
                   {0, c.m, c.n - 1, 1},
                   {c.m / 2, (c.m + 1) / 2, c.n / 2, (c.n + 1) / 2}};
      for (const auto& p : parts) {
        const auto some_a = part_of(a, c.m, c.k, ta, p.r0, p.rows, 0, c.k);
        const auto some_b = part_of(b, c.k, c.n, tb, 0, c.k, p.c0, p.cols);
        auto out = part_of(before, c.m, c.n, false, p.r0, p.rows, p.c0, p.cols);
        const auto expected = part_of(whole, c.m, c.n, false, p.r0, p.rows, p.c0, p.cols);
        multiply_panels(product({p.rows, p.cols, c.k, c.alpha, c.beta}, some_a, some_b, out, ta, tb), false);
        EXPECT_EQ(std::memcmp(out.data(), expected.data(), 4 * out.size()), 0)
            << "rows " << p.r0 << " + " << p.rows << ", columns " << p.c0 << " + " << p.cols;
      }
    }
  }
}

}  // namespace
}  // namespace tpo
