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

// Output and gradients of q, k, v and a bias, if there is one.
Values run_both(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu, const AttentionSpec& spec,
                const Tensor& bias) {
  Tape tape;
  std::vector<Tensor> in = {q, k, v};
  if (bias.defined()) in.push_back(bias);
  Tensor y;
  {
    const TapeScope scope(tape);
    for (Tensor& t : in) t = tape.watch(t);
    y = attention(in[0], in[1], in[2], cu, cu, spec, {}, {.full = bias.defined() ? in[3] : bias});
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
    int64_t bias_heads = 0;
  };
  const Shape shapes[] = {{{0, 301}, {4, 1, 32, true}},
                          {{0, 301}, {2, 2, 40, false}},
                          {{0, 0, 7, 260, 260, 265}, {2, 1, 32, true}},
                          {{0, 2, 211, 212}, {3, 3, 16, false}},
                          {{0, 90, 201}, {4, 2, 16, true}, 1},
                          {{0, 90, 201}, {4, 2, 16, false}, 4},
                          {{0, 1200}, {2, 1, 64, true}}};  // sums of many keys are joined by several threads
  const int before = num_threads();
  for (const Shape& s : shapes) {
    Rand r("threads");
    const int64_t n = s.cu.back(), d = s.spec.head_dim;
    const Tensor q = r.normal({n, s.spec.q_heads * d}), k = r.normal({n, s.spec.kv_heads * d}),
                 v = r.normal({n, s.spec.kv_heads * d}), cu = r.of(s.cu),
                 bias = s.bias_heads > 0 ? r.normal({s.bias_heads, n, n}) : Tensor();
    set_num_threads(1);
    const Values alone = run_both(q, k, v, cu, s.spec, bias);
    for (int threads : {2, 3, 7}) {
      set_num_threads(threads);
      const Values once = run_both(q, k, v, cu, s.spec, bias), again = run_both(q, k, v, cu, s.spec, bias);
      for (size_t i = 0; i < once.size(); ++i) {
        EXPECT_TRUE(same_bits(once[i], again[i])) << "value " << i << " with " << threads << " threads";
        double worst = 0, largest = 0;
        for (size_t e = 0; e < once[i].size(); ++e) {
          worst = std::max(worst, std::fabs(static_cast<double>(once[i][e]) - alone[i][e]));
          largest = std::max(largest, std::fabs(static_cast<double>(alone[i][e])));
        }
        // The output, dQ and the bias's gradient are formed alike; dK and dV are the same terms, summed in runs.
        EXPECT_LE(worst, i < 2 || i == 4 ? 0.0 : sum_tolerance(n) * largest) << "value " << i << " with " << threads;
      }
    }
  }
  set_num_threads(before);
}

// One value as q, k and v: its gradient is the sum of what three values get.
TEST(AttentionTape, one_tensor_in_three_places_gets_the_sum) {
  Rand r("three");
  const Tensor x = r.normal({40, 8}), cu = r.of({0, 40});
  const AttentionSpec spec{2, 2, 4, true};
  Tape tape;
  Tensor w, y;
  {
    const TapeScope scope(tape);
    w = tape.watch(x);
    y = attention(w, w, w, cu, cu, spec);
  }
  tape.backward(std::span(&y, 1), std::span(&x, 1));
  const Values apart = run_both(x, x, x, cu, spec, {});
  const std::vector<float> sum = tape.grad(w).to_vector<float>();
  for (size_t i = 0; i < sum.size(); ++i)
    EXPECT_NEAR(sum[i], apart[1][i] + apart[2][i] + apart[3][i], 1e-5);  // two sums of values of size 10
}

// Scores of minus infinity only: no key is seen, the row is 0 and so are its gradients.
TEST(AttentionBias, row_that_sees_no_key_is_zero) {
  Rand r("hidden");
  const int64_t n = 5;
  Tensor q = r.normal({n, 4}), full = r.normal({1, n, n});
  for (int64_t j = 0; j < n; ++j) full.data<float>()[2 * n + j] = -INFINITY;
  const Tensor cu = r.of({0, 5}), dy = r.normal({n, 4});
  Tape tape;
  Tensor y;
  {
    const TapeScope scope(tape);
    q = tape.watch(q), full = tape.watch(full);
    y = attention(q, q, q, cu, cu, {1, 1, 4, false}, {}, {.full = full});
  }
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  for (int64_t d = 0; d < 4; ++d) EXPECT_EQ(y.data<float>()[2 * 4 + d], 0.0f);
  const Tensor g = tape.grad(full);
  for (int64_t j = 0; j < n; ++j) {
    EXPECT_EQ(g.data<float>()[2 * n + j], 0.0f);
    EXPECT_NE(g.data<float>()[n + j], 0.0f);
  }
  for (float x : tape.grad(q).to_vector<float>()) EXPECT_TRUE(std::isfinite(x));
}

TEST(AttentionErrors, bias_fits_rows_heads_and_keys) {
  Rand r("bias");
  const Tensor x = r.normal({3, 8}), cu = r.of({0, 3}), two = r.of({0, 1, 3});
  const AttentionSpec spec{2, 2, 4, false};
  const auto run = [&](const Tensor& lengths, const AttentionBias& bias) {
    return attention(x, x, x, lengths, lengths, spec, {}, bias);
  };
  EXPECT_NO_THROW(run(cu, {r.normal({2, 3, 3}), r.normal({3, 2}), r.normal({3, 6})}));
  EXPECT_THROW(run(cu, {.full = r.normal({3, 3, 3})}), ShapeError);
  EXPECT_THROW(run(cu, {.full = r.normal({1, 2, 3})}), ShapeError);
  EXPECT_THROW(run(cu, {.full = r.normal({3, 3})}), ShapeError);
  EXPECT_THROW(run(cu, {.full = r.normal({1, 3, 2})}), DataError);
  EXPECT_THROW(run(cu, {.rel_h = r.normal({3, 2})}), ShapeError);
  EXPECT_THROW(run(cu, {{}, r.normal({3, 3}), r.normal({3, 6})}), ShapeError);
  EXPECT_THROW(run(cu, {{}, r.normal({3, 2}), cast(r.normal({3, 6}), DType::kBF16)}), ShapeError);
  EXPECT_THROW(run(two, {{}, r.normal({3, 2}), r.normal({3, 6})}), DataError);
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
