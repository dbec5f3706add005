// Attention and threads: a thread may begin and end inside a document, and nobody may notice.
#include "core/ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "core/ops/cast.h"
#include "core/ops/layout.h"
#include "core/parallel_for.h"
#include "tests/op_case.h"

namespace tpo::optest {
namespace {

using Values = std::vector<std::vector<float>>;

// Output and gradients of q, k, v and a bias, if there is one.
Values run_both(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu, const AttentionSpec& spec,
                const Tensor& bias, const AttentionDropout& dropout = {}) {
  Tape tape;
  std::vector<Tensor> in = {q, k, v};
  if (bias.defined()) in.push_back(bias);
  Tensor y;
  {
    const TapeScope scope(tape);
    for (Tensor& t : in) t = tape.watch(t);
    y = attention(in[0], in[1], in[2], cu, cu, spec, {}, {.full = bias.defined() ? in[3] : bias}, dropout);
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
    float drop = 0;
  };
  const Shape shapes[] = {{{0, 301}, {4, 1, 32, true}},
                          {{0, 301}, {2, 2, 40, false}},
                          {{0, 0, 7, 260, 260, 265}, {2, 1, 32, true}},
                          {{0, 2, 211, 212}, {3, 3, 16, false}},
                          {{0, 90, 201}, {4, 2, 16, true}, 1},
                          {{0, 90, 201}, {4, 2, 16, false}, 4},
                          {{0, 0, 7, 260, 260, 265}, {2, 1, 32, true}, 0, 0.3f},
                          {{0, 90, 201}, {4, 2, 16, false}, 1, 0.1f},
                          {{0, 1200}, {2, 1, 64, true}}};  // sums of many keys are joined by several threads
  const int before = num_threads();
  for (const Shape& s : shapes) {
    Rand r("threads");
    const int64_t n = s.cu.back(), d = s.spec.head_dim;
    const Tensor q = r.normal({n, s.spec.q_heads * d}), k = r.normal({n, s.spec.kv_heads * d}),
                 v = r.normal({n, s.spec.kv_heads * d}), cu = r.of(s.cu),
                 bias = s.bias_heads > 0 ? r.normal({s.bias_heads, n, n}) : Tensor();
    const AttentionDropout dropout{s.drop, RngKey(8), r.row_ids(n)};
    set_num_threads(1);
    const Values alone = run_both(q, k, v, cu, s.spec, bias, dropout);
    for (int threads : {2, 3, 7}) {
      set_num_threads(threads);
      const Values once = run_both(q, k, v, cu, s.spec, bias, dropout),
                   again = run_both(q, k, v, cu, s.spec, bias, dropout);
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

// Columns [from, to) of a matrix.
Tensor columns(const Tensor& x, int64_t from, int64_t to) { return split_last(x, {from, to - from, x.dim(1) - to})[1]; }

// A row keeps its mask whatever it is packed with and where its head stands.
TEST(AttentionDropoutRules, masks_follow_row_ids_heads_and_places_of_keys) {
  Rand r("packed");
  const int64_t n = 151, first = 61, d = 8;
  const AttentionSpec spec{4, 2, d, false}, one_group{2, 1, d, false};
  const Tensor q = r.normal({n, 4 * d}), k = r.normal({n, 2 * d}), v = r.normal({n, 2 * d}), ids = r.row_ids(n);
  const auto drop = [](const Tensor& row_ids, int64_t first_head = 0, uint64_t key = 8) {
    return AttentionDropout{0.3f, RngKey(key), row_ids, first_head};
  };
  const Tensor cu = r.of({0, first, n}), rest = r.of({0, n - first});
  const Tensor whole = attention(q, k, v, cu, cu, spec, {}, {}, drop(ids));
  const auto tail = [&](const Tensor& t) { return t.rows(first, n); };
  const Tensor own = attention(tail(q), tail(k), tail(v), rest, rest, spec, {}, {}, drop(tail(ids)));
  EXPECT_TRUE(same_bits(own.to_vector<float>(), tail(whole).to_vector<float>()));
  const auto heads_from = [&](int64_t first_head) {
    return attention(columns(q, 2 * d, 4 * d), columns(k, d, 2 * d), columns(v, d, 2 * d), cu, cu, one_group, {}, {},
                     drop(ids, first_head))
        .to_vector<float>();
  };
  const std::vector<float> last = columns(whole, 2 * d, 4 * d).to_vector<float>();
  EXPECT_TRUE(same_bits(heads_from(2), last));
  EXPECT_FALSE(same_bits(heads_from(0), last));
  const auto all = whole.to_vector<float>();
  EXPECT_NE(attention(q, k, v, cu, cu, spec, {}, {}, drop(r.row_ids(n))).to_vector<float>(), all);
  EXPECT_NE(attention(q, k, v, cu, cu, spec, {}, {}, drop(ids, 0, 9)).to_vector<float>(), all);
}

// Equal scores and values of 1: what a row gives is the share of its keys that it keeps, times 1 / (1 - p).
TEST(AttentionDropoutRules, keeps_the_stated_share_and_nothing_is_dropped_without_p_or_ids) {
  const int64_t n = 400;
  const AttentionSpec spec{1, 1, 1, false};
  Rand r("share");
  const Tensor zero = Tensor::from(std::vector<float>(static_cast<size_t>(n), 0.0f), {n, 1}), ids = r.row_ids(n),
               one = Tensor::from(std::vector<float>(static_cast<size_t>(n), 1.0f), {n, 1}),
               cu = r.of({0, static_cast<int32_t>(n)});
  const auto run = [&](const AttentionDropout& drop) {
    return attention(zero, zero, one, cu, cu, spec, {}, {}, drop).to_vector<float>();
  };
  double sum = 0;
  for (const float y : run({0.3f, RngKey(1), ids})) sum += static_cast<double>(y);
  // The mean of n * n draws of standard deviation sqrt(p / (1 - p)) = 0.65: five of its own are 0.0082.
  EXPECT_NEAR(sum / static_cast<double>(n), 1, 5 * 0.655 / static_cast<double>(n));
  const auto whole = run({});
  EXPECT_TRUE(same_bits(run({0, RngKey(1), ids}), whole));
  EXPECT_TRUE(same_bits(run({0.3f, RngKey(1), {}}), whole));
}

TEST(AttentionErrors, dropout_has_a_share_below_one_and_ids_of_the_queries) {
  Rand r("drop");
  const Tensor x = r.normal({3, 4}), qkv = r.normal({3, 12}), cu = r.of({0, 3}), ids = r.row_ids(3);
  const AttentionSpec spec{1, 1, 4, false};
  const AttentionDropout wrong[] = {
      {1.0f, {}, ids},    {-0.1f, {}, ids}, {NAN, {}, ids}, {0.1f, {}, r.row_ids(2)}, {0.1f, {}, r.of({1, 2, 3})},
      {0.1f, {}, ids, -1}};
  for (const AttentionDropout& d : wrong) {
    EXPECT_THROW(attention(x, x, x, cu, cu, spec, {}, {}, d), ShapeError);
    EXPECT_THROW(attention_packed(qkv, cu, spec, {}, {}, d), ShapeError);
  }
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
