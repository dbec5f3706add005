#include "core/tape.h"

#include <gtest/gtest.h>

#include "core/param.h"

namespace tpo {
namespace {

// y = a * x elementwise on tiny tensors, written by hand so that this file tests the tape and no op.
Tensor product(const Tensor& a, const Tensor& x) {
  Tensor y = empty_like(x);
  const auto host = [](const Tensor& t) { return t.data<float>(); };
  for (int64_t i = 0; i < x.numel(); ++i) host(y)[i] = host(a)[i] * host(x)[i];
  record("product", {a, x}, {&y}, [=](std::span<const Tensor> dy, GradSink& dx) {
    for (int k = 0; k < 2; ++k) {
      if (!dx.wants(k)) continue;
      const Tensor other = k == 0 ? x : a;
      dx.defer([=, g = dy[0]](GradSink& sink) {
        const GradDest d = sink.destination(k);
        for (int64_t i = 0; i < g.numel(); ++i) {
          const float v = host(g)[i] * host(other)[i];
          host(d.grad)[i] = d.accumulate ? host(d.grad)[i] + v : v;
        }
      });
    }
  });
  return y;
}

Tensor sum(const Tensor& a, const Tensor& b) {
  Tensor y = empty_like(a);
  for (int64_t i = 0; i < a.numel(); ++i) y.data<float>()[i] = a.data<float>()[i] + b.data<float>()[i];
  record("sum", {a, b}, {&y}, [](std::span<const Tensor> dy, GradSink& dx) {
    dx.add(0, dy[0]);
    dx.add(1, dy[0]);
  });
  return y;
}

Tensor vec(std::vector<float> v) {
  const int64_t n = static_cast<int64_t>(v.size());
  return Tensor::from(v, {n});
}

struct Log : ParamHooks {
  std::vector<std::string> fired;
  void on_grad_ready(Param& p) override { fired.push_back(p.name); }
};

TEST(tape, gradients_of_shared_inputs_add_up_without_aliasing) {
  Tape tape;
  const TapeScope scope(tape);
  const Tensor x = tape.watch(vec({2, 3}));
  const Tensor y = sum(x, x);              // both inputs get the same storage
  const Tensor z = sum(product(y, x), y);  // z = 2x^2 + 2x
  const Tensor out[1] = {z}, seed[1] = {vec({1, 1})};
  tape.backward(out, seed);
  EXPECT_EQ(tape.grad(x).to_vector<float>(), (std::vector<float>{4 * 2 + 2, 4 * 3 + 2}));
}

TEST(tape, an_op_on_a_view_gets_its_destination_in_the_shape_it_saw) {
  Tape tape;
  const TapeScope scope(tape);
  const Tensor x = tape.watch(Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3}));
  Tensor y = empty_like(x.view({3, 2}));
  record("seen", {x.view({3, 2})}, {&y}, [](std::span<const Tensor> dy, GradSink& dx) {
    EXPECT_EQ(dy[0].shape(), (Shape{3, 2}));
    const GradDest d = dx.destination(0);
    EXPECT_EQ(d.grad.shape(), (Shape{3, 2}));
    for (int64_t i = 0; i < 6; ++i) d.grad.data<float>()[i] = dy[0].data<float>()[i];
  });
  const Tensor out[1] = {y.view({6})}, seed[1] = {vec({1, 2, 3, 4, 5, 6})};
  tape.backward(out, seed);
  EXPECT_EQ(tape.grad(x).shape(), (Shape{2, 3}));
  EXPECT_EQ(tape.grad(x).to_vector<float>(), (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST(tape, an_undefined_gradient_is_one_in_the_dtype_of_the_output) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Tape tape;
    const TapeScope scope(tape);
    const Tensor x = tape.watch(Tensor::zeros({1, 1}, dtype));
    Tensor y = empty_like(x);
    record("seen", {x}, {&y}, [](std::span<const Tensor> dy, GradSink& dx) { dx.add(0, dy[0]); });
    tape.backward(y);
    ASSERT_EQ(tape.grad(x).dtype(), dtype);
    const float one = dtype == DType::kF32 ? tape.grad(x).to_vector<float>()[0]
                                           : static_cast<float>(tape.grad(x).to_vector<BF16>()[0]);
    EXPECT_EQ(one, 1.0f);
  }
}

TEST(tape, nothing_is_recorded_without_a_tape_or_a_wanting_input) {
  const Tensor x = vec({1});
  EXPECT_LT(product(x, x).slot(), 0);
  Tape tape;
  const TapeScope scope(tape);
  EXPECT_LT(product(x, x).slot(), 0);
  EXPECT_EQ(tape.size(), 0u);
  const Tensor w = tape.watch(x);
  {
    const NoGradScope no_grad;
    EXPECT_LT(product(w, x).slot(), 0);
  }
  EXPECT_THROW(tape.backward(x), ShapeError);
}

TEST(tape, tied_weight_fires_once_and_last) {
  ParamStore store(1);
  Param& tied = ParamScope(store).param("tied", {2}, Init::constant(2));
  Param& middle = ParamScope(store).param("middle", {2}, Init::constant(3));
  Log log;
  store.set_hooks(&log);
  Tape tape;
  const TapeScope scope(tape);
  const Tensor h = product(tied.use(), vec({1, 10}));
  const Tensor m = product(middle.use(), h);
  const Tensor y = product(tied.use(), m);  // y = tied^2 * middle * x
  const Tensor out[1] = {y}, seed[1] = {vec({1, 1})};
  tape.backward(out, seed);
  EXPECT_EQ(log.fired, (std::vector<std::string>{"middle", "tied"}));
  EXPECT_EQ(tied.grad.to_vector<float>(), (std::vector<float>{2 * 2 * 3 * 1, 2 * 2 * 3 * 10}));
  EXPECT_EQ(middle.grad.to_vector<float>(), (std::vector<float>{4, 40}));
}

TEST(tape, frozen_parameters_get_no_leaf_and_no_gradient) {
  ParamStore store(1);
  Param& w = ParamScope(store).param("w", {2}, Init::constant(2));
  w.trainable = false;
  Tape tape;
  const TapeScope scope(tape);
  const Tensor x = tape.watch(vec({1, 1}));
  const Tensor y = product(w.use(), x);
  const Tensor out[1] = {y}, seed[1] = {vec({1, 1})};
  tape.backward(out, seed);
  EXPECT_FALSE(w.grad.defined());
  EXPECT_EQ(tape.grad(x).to_vector<float>(), (std::vector<float>{2, 2}));
}

TEST(tape, second_microbatch_accumulates_and_a_fresh_step_overwrites) {
  ParamStore store(1);
  Param& w = ParamScope(store).param("w", {1}, Init::constant(1));
  const auto step = [&](float x) {
    Tape tape;
    const TapeScope scope(tape);
    tape.backward(product(w.use(), vec({x})));
  };
  step(2);
  step(5);
  EXPECT_EQ(w.grad.item(), 7);
  w.grad_written = false;
  step(3);
  EXPECT_EQ(w.grad.item(), 3);
}

TEST(tape, input_only_mode_defers_weight_gradients_and_their_readiness) {
  for (const bool recomputed : {false, true}) {
    ParamStore store(1);
    Param& w = ParamScope(store).param("w", {1}, Init::constant(4));
    Log log;
    store.set_hooks(&log);
    Tape tape;
    const TapeScope scope(tape);
    const Tensor x = vec({3});
    const auto block = [&](std::span<const Tensor> in) { return product(w.use(), in[0]); };
    const Tensor y = recomputed ? recompute_block(block, {x}) : block(std::vector<Tensor>{x});
    const Tensor out[1] = {y}, none[1] = {};
    tape.backward(out, none, Tape::Mode::kInputOnly);
    EXPECT_TRUE(log.fired.empty());
    EXPECT_FALSE(w.grad.defined());
    tape.run_weight_grads();
    EXPECT_EQ(log.fired, std::vector<std::string>{"w"});
    EXPECT_EQ(w.grad.item(), 3);
  }
}

TEST(tape, closures_are_destroyed_right_after_they_ran) {
  const auto stream = Stream::make_cpu();
  const StreamScope stream_scope(*stream);
  Tape tape;
  const TapeScope scope(tape);
  const Tensor x = tape.watch(vec(std::vector<float>(1000, 1)));
  Tensor y = x;
  for (int i = 0; i < 10; ++i) y = product(y, y);
  const int64_t before = stream->allocator()->stats().live_bytes;
  const Tensor out[1] = {y}, seed[1] = {vec(std::vector<float>(1000, 1))};
  y = Tensor();
  tape.backward(out, seed);
  // Left: x, the seed, the last value, and x's gradient.
  EXPECT_LE(stream->allocator()->stats().live_bytes, 4 * 4096);
  EXPECT_GE(before, 11 * 4096);
}

TEST(tape, recompute_gives_the_same_gradients_saves_less_and_fires_once) {
  const auto run = [](bool recomputed, std::vector<std::string>& fired) {
    ParamStore store(1);
    Param& w = ParamScope(store).param("w", {500}, Init::normal(0, 1));
    Log log;
    store.set_hooks(&log);
    const auto block = [&](std::span<const Tensor> in) {
      Tensor h = in[0];
      for (int i = 0; i < 5; ++i) h = product(w.use(), h);
      return h;
    };
    Tape tape;
    const TapeScope scope(tape);
    const Tensor x = tape.watch(vec(std::vector<float>(500, 1.5f)));
    Tensor y = recomputed ? recompute_block(block, {x}) : block(std::vector<Tensor>{x});
    y = product(w.use(), y);
    const size_t nodes = tape.size();
    const Tensor out[1] = {y}, seed[1] = {vec(std::vector<float>(500, 1))};
    tape.backward(out, seed);
    fired = log.fired;
    auto result = tape.grad(x).to_vector<float>();
    const auto gw = w.grad.to_vector<float>();
    result.insert(result.end(), gw.begin(), gw.end());
    EXPECT_EQ(nodes, recomputed ? 3u : 12u);
    return result;
  };
  std::vector<std::string> fired_a, fired_b;
  EXPECT_EQ(run(false, fired_a), run(true, fired_b));
  EXPECT_EQ(fired_a, std::vector<std::string>{"w"});
  EXPECT_EQ(fired_b, std::vector<std::string>{"w"});
}

TEST(tape, nested_recompute_and_a_block_nobody_reads) {
  ParamStore store(1);
  Param& w = ParamScope(store).param("w", {1}, Init::constant(3));
  Param& unread = ParamScope(store).param("unread", {1}, Init::constant(3));
  Log log;
  store.set_hooks(&log);
  Tape tape;
  const TapeScope scope(tape);
  const auto inner = [&](std::span<const Tensor> in) { return product(w.use(), in[0]); };
  const auto outer = [&](std::span<const Tensor> in) { return product(w.use(), recompute_block(inner, {in[0]})); };
  const Tensor dropped =
      recompute_block([&](std::span<const Tensor> in) { return product(unread.use(), in[0]); }, {vec({1})});
  const Tensor y = recompute_block(outer, {vec({2})});  // 2 w^2
  tape.backward(y);
  EXPECT_EQ(w.grad.item(), 2 * 2 * 3);
  EXPECT_EQ(log.fired, (std::vector<std::string>{"w", "unread"}));  // all leaves fire, also the unread one
  EXPECT_FALSE(unread.grad_written);
}

}  // namespace
}  // namespace tpo
