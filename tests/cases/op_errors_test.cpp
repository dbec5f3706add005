// What the ops of this folder refuse, and that the sentence names the place and the value.
#include <gtest/gtest.h>

#include "core/ops/attention.h"
#include "core/ops/embedding.h"
#include "core/ops/loss.h"
#include "core/ops/matmul.h"
#include "core/ops/rope.h"

namespace tpo {
namespace {

Tensor ones(const Shape& s) { return Tensor::from(std::vector<float>(static_cast<size_t>(s.numel()), 1.0f), s); }
Tensor ints(const std::vector<int32_t>& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); }

// The message of the E that fn throws.
template <class E, class Fn>
std::string refusal(const Fn& fn) {
  try {
    fn();
  } catch (const E& e) {
    return e.what();
  }
  return "nothing thrown";
}

void expect_has(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(OpErrors, products_print_both_shapes) {
  const std::string m = refusal<ShapeError>([] { matmul_nn(ones({2, 3}), ones({4, 5})); });
  expect_has(m, "[matmul_nn]");
  expect_has(m, "(2, 3)");
  expect_has(m, "(4, 5)");
  expect_has(refusal<ShapeError>([] { linear(ones({2, 3}), ones({5, 4})); }), "(5, 4)");
  expect_has(refusal<ShapeError>([] { linear(ones({2, 3}), ones({5, 3}), ones({4})); }), "bias (4)");
  expect_has(refusal<ShapeError>([] { linear_add(ones({2, 3}), ones({5, 3}), ones({2, 4}), 1); }), "base (2, 4)");
  expect_has(refusal<ShapeError>([] { linear(Tensor(), ones({5, 3})); }), "x is undefined");
}

TEST(OpErrors, rows_out_of_range_are_named) {
  expect_has(refusal<DataError>([] { embedding(ones({5, 2}), ints({0, 4, 5})); }), "ids[2] is 5, must be in 0..4");
  expect_has(refusal<DataError>([] { gather_rows(ones({5, 2}), ints({-1})); }), "idx[0] is -1");
  expect_has(refusal<DataError>([] { overwrite_rows(ones({5, 2}), ints({1, 3, 1}), ones({3, 2})); }), "repeats row 1");
  expect_has(refusal<ShapeError>([] { overwrite_rows(ones({5, 2}), ints({1}), ones({2, 2})); }), "(2, 2)");
}

TEST(OpErrors, targets_out_of_range_are_named) {
  const auto loss = [](int32_t target) {
    vocab_cross_entropy(ones({2, 3}), ones({7, 3}), ints({kIgnoreTarget, target}), 1);
  };
  expect_has(refusal<DataError>([&] { loss(7); }), "target of row 1 is 7");
  expect_has(refusal<DataError>([&] { loss(-1); }), "target of row 1 is -1");
  EXPECT_NO_THROW(loss(6));
  expect_has(refusal<ShapeError>([] {
               vocab_cross_entropy(ones({2, 3}), ones({7, 3}), ints({1, 1}), 1, ones({2, 1}));
             }),
             "come together");
}

TEST(OpErrors, attention_checks_segments) {
  const AttentionSpec causal{2, 1, 4, true, 0}, full{2, 1, 4, false, 0};
  const auto run = [](const AttentionSpec& s, std::vector<int32_t> cu_q, std::vector<int32_t> cu_k) {
    attention(ones({3, 8}), ones({4, 4}), ones({4, 4}), ints(cu_q), ints(cu_k), s);
  };
  EXPECT_NO_THROW(run(causal, {0, 3}, {0, 4}));
  expect_has(refusal<DataError>([&] { run(full, {0, 2}, {0, 4}); }), "must run from 0 to 3");
  expect_has(refusal<DataError>([&] { run(full, {0, 3, 2, 3}, {0, 1, 2, 4}); }), "below its predecessor");
  expect_has(refusal<DataError>([&] { run(full, {0, 1, 3}, {0, 0, 4}); }), "it needs keys");
  expect_has(refusal<DataError>([&] { run(causal, {0, 2, 3}, {0, 1, 4}); }), "at least as many keys");
  expect_has(refusal<ShapeError>([&] { run({3, 2, 4, true, 0}, {0, 3}, {0, 4}); }), "kv_heads must divide");
  const Tensor cache = ones({4, 4}), q = ones({2, 8}), out = ones({2, 8});
  expect_has(refusal<ShapeError>([&] { attention_cached(q, cache, cache, 5, causal, out); }), "len 5");
  expect_has(refusal<ShapeError>([&] { attention_cached(q, cache, cache, 1, causal, out); }), "at least the rows");
}

TEST(OpErrors, rope_wants_even_heads) {
  expect_has(refusal<ShapeError>([] { rope(ones({2, 6}), ints({0, 1}), 2, 1e4f); }), "even D");
  expect_has(refusal<ShapeError>([] { rope(ones({2, 4}), ints({0}), 2, 1e4f); }), "positions (1)");
}

}  // namespace
}  // namespace tpo
