// Ops of the tensor axis against the same sums on one rank, cuts, and gradients that are summed over ranks.
#include <gtest/gtest.h>

#include <functional>

#include "core/ops/cast.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/param.h"
#include "parallel/comm/threads.h"
#include "parallel/tensor/cut.h"
#include "parallel/tensor/summed_param.h"
#include "parallel/tensor/tensor_parallel.h"

namespace tpo {
namespace {

// Small integers: exact in f32 and bf16, sums over a few ranks too.
std::vector<float> integers(std::string_view name, int rank, int64_t n) {
  std::vector<float> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>(uniform_below(RngKey(1).with(name).with(static_cast<uint64_t>(rank)), i, 9)) - 4;
  return v;
}

std::vector<float> sum_over(std::string_view name, int ranks, int64_t n) {
  std::vector<float> sum(static_cast<size_t>(n));
  for (int r = 0; r < ranks; ++r) {
    const auto v = integers(name, r, n);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += v[i];
  }
  return sum;
}

// Rows of rank r of a shard, zeros beyond the last.
std::vector<float> shard_of(const std::vector<float>& whole, int rank, int ranks, int64_t rows, int64_t cols) {
  const int64_t R = (rows + ranks - 1) / ranks;
  std::vector<float> out(static_cast<size_t>(R * cols));
  for (int64_t i = 0; i < R * cols; ++i)
    if (const int64_t at = rank * R * cols + i; at < rows * cols)
      out[static_cast<size_t>(i)] = whole[static_cast<size_t>(at)];
  return out;
}

struct Result {
  std::vector<float> y, dx;
};

// y and dx of op(x) with gradient dy; x is a fresh result of an op, so that it may be written over.
Result run_op(const std::function<Tensor(const Tensor&)>& op, const std::vector<float>& x, int64_t cols,
              const std::function<std::vector<float>(int64_t)>& dy, DType dtype) {
  Tape tape;
  const TapeScope scope(tape);
  const auto n = static_cast<int64_t>(x.size());
  const Tensor leaf = tape.watch(cast(Tensor::from(x, {n / cols, cols}), dtype));
  const Tensor y = op(scale(leaf, 1));
  const Tensor outputs[1] = {y}, grads[1] = {cast(Tensor::from(dy(y.numel()), y.shape()), dtype)};
  tape.backward(outputs, grads);
  return {cast(y, DType::kF32).to_vector<float>(), cast(tape.grad(leaf), DType::kF32).to_vector<float>()};
}

constexpr int64_t kCols = 3;

void ops_equal_one_rank(ProcessGroup& tp, int64_t rows, DType dtype) {
  const int n = tp.size(), r = tp.rank();
  const int64_t all = rows * kCols;
  const auto shard = [&](const std::vector<float>& v) { return shard_of(v, r, n, rows, kCols); };
  const auto mine = [&](const char* name) { return integers(name, r, all); };
  const auto whole = [&](const char* name) { return integers(name, 0, all); };
  const auto sum = [&](const char* name) { return sum_over(name, n, all); };
  const auto constant = [](const std::vector<float>& v) { return [v](int64_t) { return v; }; };
  const auto expect = [&](const char* op, const Result& got, const Result& want) {
    EXPECT_EQ(got.y, want.y) << op << ' ' << rows << " rows";
    EXPECT_EQ(got.dx, want.dx) << op << " backward, " << rows << " rows";
  };
  const auto go = [&](auto op, const std::vector<float>& x, const std::vector<float>& dy) {
    return run_op([&](const Tensor& t) { return op(t); }, x, kCols, constant(dy), dtype);
  };
  expect("copy_to", go([&](const Tensor& t) { return copy_to(t, tp); }, whole("x"), mine("d")), {whole("x"), sum("d")});
  expect("reduce_from", go([&](const Tensor& t) { return reduce_from(t, tp); }, mine("x"), whole("d")),
         {sum("x"), whole("d")});
  expect("gather_from", go([&](const Tensor& t) { return gather_from(t, rows, tp); }, shard(whole("x")), mine("d")),
         {whole("x"), shard(sum("d"))});
  expect("reduce_scatter_to",
         go([&](const Tensor& t) { return reduce_scatter_to(t, tp); }, mine("x"), shard(whole("d"))),
         {shard(sum("x")), whole("d")});
  expect("split_to", go([&](const Tensor& t) { return split_to(t, tp); }, whole("x"), shard(whole("d"))),
         {shard(whole("x")), whole("d")});
  expect("join_from", go([&](const Tensor& t) { return join_from(t, rows, tp); }, shard(whole("x")), whole("d")),
         {whole("x"), shard(whole("d"))});
}

TEST(TensorOps, are_sums_copies_and_cuts_in_both_directions) {
  for (const int n : {1, 2, 3, 4})
    for (const int64_t rows : {1, 2, 7, 12})
      for (const DType dtype : {DType::kF32, DType::kBF16})
        run_ranks(n, [&](ProcessGroup& tp) { ops_equal_one_rank(tp, rows, dtype); });
}

TEST(TensorOps, biases_are_added_once) {
  for (const int n : {1, 2, 3})
    run_ranks(n, [&](ProcessGroup& tp) {
      constexpr int64_t kRows = 5;
      for (const bool sequence : {false, true}) {
        const TensorParallel axis(tp, sequence);
        Tape tape;
        const TapeScope scope(tape);
        const Tensor x = tape.watch(Tensor::from(integers("x", tp.rank(), kRows * kCols), {kRows, kCols}));
        const Tensor bias = tape.watch(Tensor::from(integers("bias", 0, kCols), {kCols}));
        const Tensor y = axis.end_stream(axis.leave(scale(x, 1), bias), kRows);
        auto want = sum_over("x", n, kRows * kCols);
        for (size_t i = 0; i < want.size(); ++i) want[i] += integers("bias", 0, kCols)[i % kCols];
        EXPECT_EQ(y.to_vector<float>(), want);
        const auto dy = integers("d", 0, kRows * kCols);
        const Tensor outputs[1] = {y}, grads[1] = {Tensor::from(dy, y.shape())};
        tape.backward(outputs, grads);
        EXPECT_EQ(tape.grad(x).to_vector<float>(), dy);
        // Under sequence parallelism a rank's share, else all of it.
        const Tensor share = tape.grad(bias);
        if (axis.sequence) tp.all_reduce(share, ReduceOp::kSum, "bias").wait_host();
        std::vector<float> sums(kCols);
        for (size_t i = 0; i < dy.size(); ++i) sums[i % kCols] += dy[i];
        EXPECT_EQ(share.to_vector<float>(), sums);
      }
    });
}

TEST(TensorOps, columns_are_joined_in_the_order_of_ranks) {
  for (const int n : {1, 2, 3, 4})
    run_ranks(n, [&](ProcessGroup& tp) {
      constexpr int64_t kRows = 2, kAll = 7;
      const auto whole = integers("x", 0, kRows * kAll), dy = integers("d", 0, kRows * kAll);
      const Range part = balanced_part(kAll, tp.rank(), n);
      std::vector<float> mine, dmine;
      for (int64_t i = 0; i < kRows; ++i)
        for (int64_t c = part.begin; c < part.end; ++c)
          mine.push_back(whole[static_cast<size_t>(i * kAll + c)]),
              dmine.push_back(dy[static_cast<size_t>(i * kAll + c)]);
      const Result got = run_op([&](const Tensor& t) { return join_columns(t, kAll, tp); }, mine, part.size(),
                                [&](int64_t) { return dy; }, DType::kF32);
      EXPECT_EQ(got.y, whole);
      EXPECT_EQ(got.dx, dmine);
    });
}

TEST(TensorOps, a_group_of_one_records_nothing_and_copies_nothing) {
  const auto alone = make_single();
  Tape tape;
  const TapeScope scope(tape);
  const Tensor x = tape.watch(Tensor::from(integers("x", 0, 6), {2, kCols}));
  for (const bool sequence : {false, true}) {
    const TensorParallel axis(*alone, sequence);
    const Tensor y = axis.end_stream(axis.leave(axis.enter(axis.begin_stream(x), 2)), 2);
    EXPECT_EQ(y.raw(), x.raw());
  }
  EXPECT_EQ(tape.size(), 0u);
  EXPECT_EQ(alone->collectives_issued(), 0u);
}

TEST(TensorOps, shapes_that_do_not_fit_are_refused) {
  run_ranks(2, [](ProcessGroup& tp) {
    const Tensor x = Tensor::zeros({3, kCols});
    EXPECT_THROW(gather_from(x, 7, tp), ShapeError);
    EXPECT_THROW(join_from(x, 4, tp), ShapeError);
    EXPECT_THROW(split_to(Tensor::zeros({4}), tp), ShapeError);
    EXPECT_THROW(reduce_from(x, tp, Tensor::zeros({4})), ShapeError);
    EXPECT_THROW(join_columns(x, 8, tp), ShapeError);
  });
}

TEST(Cut, balanced_parts_cover_a_dimension_and_differ_by_one) {
  for (const int64_t size : {1, 5, 7, 1031})
    for (int n = 1; n <= 5; ++n) {
      int64_t next = 0;
      for (int r = 0; r < n; ++r) {
        const Range part = balanced_part(size, r, n);
        EXPECT_EQ(part.begin, next);
        EXPECT_LE(std::abs(part.size() * n - size), n - 1);
        next = part.end;
      }
      EXPECT_EQ(next, size);
    }
}

TEST(Cut, heads_follow_their_key_value_head_with_a_uniform_ratio) {
  struct Case {
    int64_t heads, kv;
  };
  for (const Case c : {Case{6, 2}, {4, 1}, {8, 8}, {12, 3}, {5, 5}, {32, 8}, {9, 3}})
    for (int n = 1; n <= c.heads && n <= 8; ++n) {
      int64_t next = 0;
      for (int r = 0; r < n; ++r) {
        const HeadPart p = head_part(c.heads, c.kv, r, n);
        EXPECT_EQ(p.q.begin, next);
        next = p.q.end;
        ASSERT_GE(p.q.size(), 1) << c.heads << ' ' << c.kv << " rank " << r << " of " << n;
        EXPECT_EQ(p.q.size() % p.kv.size(), 0);
        const int64_t each = c.heads / c.kv;
        EXPECT_GE(p.q.begin, p.kv.begin * each);
        EXPECT_LE(p.q.end, p.kv.end * each);
        EXPECT_EQ(p.kv.size() == 1 || p.q.size() == p.kv.size() * each, true);
      }
      EXPECT_EQ(next, c.heads);
    }
}

TEST(Cut, a_layer_with_nothing_for_a_rank_is_refused_by_name) {
  run_ranks(3, [](ProcessGroup& tp) {
    try {
      balanced_cut("language.up", "outputs", 2, tp);
      FAIL() << "no error";
    } catch (const ConfigError& e) {
      EXPECT_EQ(
          std::string(e.what()),
          "layer language.up has 2 outputs, too few for 3 tensor-parallel ranks; set the tensor axis to at most 2");
    }
  });
}

class CountingHooks final : public ParamHooks {
 public:
  void on_grad_ready(Param& p) override { ready.push_back(p.name); }
  std::vector<std::string> ready;
};

// Two uses in a microbatch, two microbatches, gradients deferred or not, inside a recomputed block or not.
TEST(SummedParam, gradients_are_summed_over_ranks_once_a_microbatch) {
  for (const auto mode : {Tape::Mode::kFull, Tape::Mode::kInputOnly})
    for (const bool recompute : {false, true})
      run_ranks(3, [&](ProcessGroup& tp) {
        ParamStore store(1);
        CountingHooks hooks;
        Param& p = store.create("w", {2, kCols}, Init::constant(1), 0);
        store.set_hooks(&hooks);
        const SummedParam w(p, &tp);
        std::vector<float> want(2 * kCols);
        for (const char* name : {"first", "second"}) {
          Tape tape;
          const TapeScope scope(tape);
          const Tensor x = Tensor::from(integers(name, tp.rank(), 4 * kCols), {4, kCols});
          const auto block = [&](std::span<const Tensor> in) {
            return add(linear(in[0], w.use()), linear(in[0], w.use()));
          };
          const Tensor y = recompute ? recompute_block(block, {x}) : block({&x, 1});
          const Tensor outputs[1] = {y}, grads[1] = {Tensor::from(std::vector<float>(8, 1), {4, 2})};
          const uint64_t before = tp.collectives_issued();
          tape.backward(outputs, grads, mode);
          if (mode == Tape::Mode::kInputOnly) {
            EXPECT_EQ(tp.collectives_issued(), before);
            tape.run_weight_grads();
          }
          EXPECT_EQ(tp.collectives_issued(), before + 1);
          const auto sums = sum_over(name, 3, 4 * kCols);
          for (size_t i = 0; i < want.size(); ++i)
            for (size_t row = 0; row < 4; ++row) want[i] += 2 * sums[row * kCols + i % kCols];
        }
        EXPECT_EQ(p.grad.to_vector<float>(), want);
        EXPECT_EQ(hooks.ready, (std::vector<std::string>{"w", "w"}));
        p.trainable = false;
        Tape tape;
        const TapeScope scope(tape);
        EXPECT_EQ(w.use().raw(), p.value.raw());
        EXPECT_EQ(tape.size(), 0u);
      });
}

}  // namespace
}  // namespace tpo
