// Rules of convolutions that a comparison with a reference does not show.
#include "core/ops/conv.h"

#include <gtest/gtest.h>

#include "core/parallel_for.h"
#include "core/param.h"
#include "tests/op_case.h"

namespace tpo {
namespace {

Tensor ones(const Shape& s) { return Tensor::from(std::vector<float>(static_cast<size_t>(s.numel()), 1.0f), s); }

template <class Fn>
std::string refusal(const Fn& fn) {
  try {
    fn();
  } catch (const ShapeError& e) {
    return e.what();
  }
  return "nothing thrown";
}

void expect_has(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(Conv, errors_print_shapes_and_steps) {
  const Tensor x = ones({1, 5, 4, 3}), w = ones({2, 3, 3, 3}), deep = ones({3, 3, 3});
  const auto conv = [](const Tensor& image, const Tensor& weight, const Tensor& bias, const ConvSpec& spec) {
    return refusal([&] { conv2d(image, weight, bias, spec); });
  };
  expect_has(conv(ones({5, 4, 3}), w, {}, {}), "(B, H, W, C)");
  expect_has(conv(x, ones({2, 3, 3, 4}), {}, {}), "(2, 3, 3, 4) must have the same last dim");
  expect_has(conv(x, ones({2, 0, 3, 3}), {}, {}), "no elements");
  expect_has(conv(x, w, ones({3}), {}), "bias (3) must be (2)");
  expect_has(conv(x, w, {}, {.stride = {1, 0}}), "stride 1 x 0");
  expect_has(conv(x, w, {}, {.pad = -1}), "pad -1 x -1");
  expect_has(conv(x, ones({2, 3, 7, 3}), {}, {.pad = 1}), "image extent 4 with pad 1");
  expect_has(conv(ones({1, 0, 4, 3}), w, {}, {.pad = 3}), "image extent 0");
  const auto transposed = [&](const Tensor& weight, const ConvTransposeSpec& spec) {
    return refusal([&] { conv_transpose2d(x, weight, {}, spec); });
  };
  expect_has(transposed(ones({2, 2, 2, 3}), {}), "must equal the first of w (2, 2, 2, 3)");
  expect_has(transposed(ones({3, 2, 2, 2}), {.stride = 2, .out_pad = 2}), "out_pad 2 must be in 0..1");
  expect_has(transposed(ones({3, 2, 2, 2}), {.pad = 3}), "the result not empty, is 0");
  expect_has(refusal([&] { depthwise_conv2d(x, ones({3, 3, 4})); }), "(3, 3, 4)");
  expect_has(refusal([&] { depthwise_conv2d(x, deep, ones({2})); }), "bias (2)");
}

// An empty batch is allowed; the weight's gradient is then zero, not what was in memory.
TEST(Conv, takes_an_empty_batch) {
  for (const bool depthwise : {false, true}) {
    Tape tape;
    const Tensor w = tape.watch(depthwise ? ones({3, 3, 2}) : ones({2, 3, 3, 2}));
    Tensor y;
    {
      const TapeScope scope(tape);
      const Tensor x = ones({0, 5, 4, 2});
      y = depthwise ? depthwise_conv2d(x, w) : conv2d(x, w);
    }
    EXPECT_EQ(y.shape(), Shape({0, 3, 2, 2}));
    const Tensor dy = empty_like(y);
    tape.backward(std::span(&y, 1), std::span(&dy, 1));
    for (float g : tape.grad(w).to_vector<float>()) EXPECT_EQ(g, 0.0f);
  }
}

// The windows of one picture are 9 times its size, those of a batch are never in memory.
TEST(Conv, scratch_is_bounded_by_a_tile) {
  const auto scratch = [](int64_t batch, const auto& op) {
    const auto stream = Stream::make_meta();
    const StreamScope scope(*stream);
    const Tensor x = Tensor::empty({batch, 64, 64, 32});
    const auto& memory = *stream->allocator();
    const Tensor y = op(x);
    return memory.stats().peak_bytes - memory.stats().live_bytes;
  };
  const auto conv = [](const Tensor& x) { return conv2d(x, Tensor::empty({32, 3, 3, 32}), {}, {.pad = 1}); };
  const auto transposed = [](const Tensor& x) {
    return conv_transpose2d(x, Tensor::empty({32, 4, 4, 32}), {}, {.stride = 2, .pad = 1});
  };
  const auto depthwise = [](const Tensor& x) { return depthwise_conv2d(x, Tensor::empty({7, 7, 32}), {}, {.pad = 3}); };
  EXPECT_EQ(scratch(8, conv), scratch(64, conv));
  EXPECT_EQ(scratch(8, transposed), scratch(64, transposed));
  EXPECT_EQ(scratch(8, depthwise), scratch(64, depthwise));
}

using Inputs = std::span<const Tensor>;
using Op = Tensor (*)(Inputs);

constexpr Op kConv = [](Inputs v) { return conv2d(v[0], v[1], v[2], {.stride = 2, .pad = 1}); };
constexpr Op kTransposed = [](Inputs v) { return conv_transpose2d(v[0], v[1], v[2], {.stride = 2, .pad = 1}); };
constexpr Op kDepthwise = [](Inputs v) { return depthwise_conv2d(v[0], v[1], v[2], {.pad = 1}); };

std::vector<Tensor> inputs(const Shape& weight) {
  optest::Rand r("conv_test");
  return {r.normal({2, 31, 33, 70}), r.normal(weight), r.normal({70})};
}

// Gradients of all three inputs, the last two as leaves whose work may be deferred.
std::vector<float> gradients(const std::vector<Tensor>& in, Op op, Tape::Mode mode) {
  ParamStore store(1);
  Param& w = ParamScope(store).param("w", in[1].shape(), Init::constant(0));
  Param& bias = ParamScope(store).param("bias", in[2].shape(), Init::constant(0));
  w.value = in[1], bias.value = in[2];
  Tape tape;
  const Tensor x = tape.watch(in[0]);
  Tensor y;
  {
    const TapeScope scope(tape);
    const std::vector<Tensor> v = {x, w.use(), bias.use()};
    y = op(v);
  }
  const Tensor dy = optest::Rand("dy").normal(y.shape());
  tape.backward(std::span(&y, 1), std::span(&dy, 1), mode);
  EXPECT_EQ(w.grad.defined(), mode == Tape::Mode::kFull);
  tape.run_weight_grads();
  std::vector<float> all = tape.grad(x).to_vector<float>();
  for (const Param* p : {&w, &bias}) {
    const auto g = p->grad.to_vector<float>();
    all.insert(all.end(), g.begin(), g.end());
  }
  return all;
}

TEST(Conv, deferred_weight_gradients_are_the_same) {
  for (const Op op : {kConv, kTransposed, kDepthwise}) {
    const auto in = inputs(op == kDepthwise ? Shape{3, 3, 70} : Shape{70, 3, 3, 70});
    EXPECT_EQ(gradients(in, op, Tape::Mode::kFull), gradients(in, op, Tape::Mode::kInputOnly));
  }
}

// Its sums have one order on any processor; the others are products, which depend on how rows are cut where BLAS makes
// them.
TEST(Conv, depthwise_has_the_same_bits_for_any_number_of_threads) {
  const auto in = inputs({3, 3, 70});
  const int before = num_threads();
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 5}) {
    set_num_threads(threads);
    results.push_back(kDepthwise(in).to_vector<float>());
    const auto g = gradients(in, kDepthwise, Tape::Mode::kFull);
    results.back().insert(results.back().end(), g.begin(), g.end());
  }
  set_num_threads(before);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

}  // namespace
}  // namespace tpo
