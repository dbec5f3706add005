// Attention and threads: a thread may begin and end inside a document, and nobody may notice.
#include "core/ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "core/ops/cast.h"
#include "core/parallel_for.h"
#include "tests/op_case.h"

namespace tpo::optest {
namespace {

using Values = std::vector<std::vector<float>>;

// Output and gradients of q, k, v.
Values run_both(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu, const AttentionSpec& spec) {
  Tape tape;
  Tensor in[3] = {q, k, v}, y;
  {
    const TapeScope scope(tape);
    for (Tensor& t : in) t = tape.watch(t);
    y = attention(in[0], in[1], in[2], cu, cu, spec);
  }
  tape.backward(std::span(&y, 1), std::span(&q, 1));  // any gradient of that shape
  Values all = {y.to_vector<float>()};
  for (const Tensor& t : in) all.push_back(tape.grad(t).to_vector<float>());
  return all;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(AttentionThreads, share_segments_of_every_number_and_length) {
  struct Shape {
    std::vector<int32_t> cu;
    AttentionSpec spec;
  };
  const Shape shapes[] = {{{0, 301}, {4, 1, 32, true}},
                          {{0, 301}, {2, 2, 40, false}},
                          {{0, 0, 7, 260, 260, 265}, {2, 1, 32, true}},
                          {{0, 2, 211, 212}, {3, 3, 16, false}}};
  const int before = num_threads();
  for (const Shape& s : shapes) {
    Rand r("threads");
    const int64_t n = s.cu.back(), d = s.spec.head_dim;
    const Tensor q = r.normal({n, s.spec.q_heads * d}), k = r.normal({n, s.spec.kv_heads * d}),
                 v = r.normal({n, s.spec.kv_heads * d}), cu = r.of(s.cu);
    set_num_threads(1);
    const Values alone = run_both(q, k, v, cu, s.spec);
    for (int threads : {2, 3, 7}) {
      set_num_threads(threads);
      const Values once = run_both(q, k, v, cu, s.spec), again = run_both(q, k, v, cu, s.spec);
      for (size_t i = 0; i < once.size(); ++i) {
        EXPECT_TRUE(same_bits(once[i], again[i])) << "value " << i << " with " << threads << " threads";
        double worst = 0, largest = 0;
        for (size_t e = 0; e < once[i].size(); ++e) {
          worst = std::max(worst, std::fabs(static_cast<double>(once[i][e]) - alone[i][e]));
          largest = std::max(largest, std::fabs(static_cast<double>(alone[i][e])));
        }
        // The output and dQ are formed alike; dK and dV are the same terms, summed in runs.
        EXPECT_LE(worst, i < 2 ? 0.0 : sum_tolerance(n) * largest) << "value " << i << " with " << threads;
      }
    }
  }
  set_num_threads(before);
}

TEST(AttentionErrors, positions_fit_rows_and_heads) {
  Rand r("positions");
  const Tensor x = r.normal({3, 4}), odd = r.normal({3, 3}), cu = r.of({0, 3}), three = r.of({0, 1, 2}),
               two = r.of({0, 1});
  const AttentionSpec spec{1, 1, 4, false}, odd_spec{1, 1, 3, false};
  EXPECT_THROW(attention(x, x, x, cu, cu, spec, {two, three, 1e4f}), ShapeError);
  EXPECT_THROW(attention(x, x, x, cu, cu, spec, {three, two, 1e4f}), ShapeError);
  EXPECT_THROW(attention(x, x, x, cu, cu, spec, {three, three, 0}), ShapeError);
  EXPECT_THROW(attention(odd, odd, odd, cu, cu, odd_spec, {three, three, 1e4f}), ShapeError);
  EXPECT_THROW(attention_cached(x, x, x, 3, spec, empty_like(x), {three, three, 1e4f}), ShapeError);
}

TEST(AttentionErrors, operands_are_stored_alike) {
  Rand r("stored");
  const Tensor wide = r.normal({3, 4}), narrow = cast(wide, DType::kBF16), cu = r.of({0, 3});
  const AttentionSpec spec{1, 1, 4, false};
  EXPECT_THROW(attention(narrow, wide, narrow, cu, cu, spec), ShapeError);
  EXPECT_THROW(attention(narrow, narrow, wide, cu, cu, spec), ShapeError);
  EXPECT_THROW(attention_cached(narrow, narrow, narrow, 3, spec, wide), ShapeError);
  EXPECT_EQ(attention(narrow, narrow, narrow, cu, cu, spec).dtype(), DType::kBF16);
}

}  // namespace
}  // namespace tpo::optest
