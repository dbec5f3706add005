// What a sweep does with memory: activations go as it passes, gradients of parameters are written where they stay.
#include "core/memory.h"

#include <gtest/gtest.h>

#include "core/kernels/bmm.h"
#include "core/kernels/conv.h"
#include "core/ops/bmm.h"
#include "core/ops/conv.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "core/param.h"

namespace tpo {
namespace {

constexpr int kLayers = 6;
constexpr int64_t kRows = 4, kWidth = 256;  // few rows: a weight is 64 times an activation

struct Rig {
  explicit Rig(bool meta) : stream(meta ? Stream::make_meta() : Stream::make_cpu()) {
    for (int i = 0; i < kLayers; ++i)
      weights.push_back(&(ParamScope(store) / i).param("w", {kWidth, kWidth}, Init::normal(0, 0.06f)));
  }
  int64_t live(MemoryKind k) const { return stream->allocator()->memory().live[static_cast<size_t>(k)]; }
  int64_t peak(MemoryKind k) const { return stream->allocator()->memory().peak[static_cast<size_t>(k)]; }

  std::unique_ptr<Stream> stream;
  StreamScope scope{*stream};
  ParamStore store{1};
  std::vector<Param*> weights;
};

// The same values; its backward looks at what is live.
Tensor boundary(const Tensor& x, const Rig& rig, std::vector<int64_t>& seen) {
  Tensor y = x.detach();
  record("boundary", {x}, {&y}, [&](std::span<const Tensor> dy, GradSink& dx) {
    seen.push_back(rig.live(MemoryKind::kActivations));
    dx.add(0, dy[0]);
  });
  return y;
}

TEST(memory, activations_are_freed_as_the_sweep_passes) {
  for (const bool meta : {false, true}) {
    for (const Keep keep : {Keep::kNothing, Keep::kProducts}) {
      Rig rig(meta);
      std::vector<int64_t> seen;
      Tape tape;
      Tensor out;
      {
        const TapeScope scope(tape);
        Tensor x = tape.watch(Tensor::zeros({kRows, kWidth}));
        for (Param* w : rig.weights) {
          const auto layer = [w](std::span<const Tensor> in) { return gelu(linear(in[0], w->use())); };
          const Tensor in[1] = {x};
          x = boundary(keep == Keep::kNothing ? layer(in) : recompute_block(layer, {x}, keep), rig, seen);
        }
        out = std::move(x);
      }
      const int64_t after_forward = rig.live(MemoryKind::kActivations);
      const Tensor outputs[1] = {out}, seed[1] = {Tensor::zeros(out.shape())};
      out = Tensor();
      tape.backward(outputs, seed);
      ASSERT_EQ(seen.size(), static_cast<size_t>(kLayers));
      const int64_t value = kRows * kWidth * 4;
      // A layer keeps its input and what comes before the GELU; the last result is held by `outputs`.
      EXPECT_EQ(after_forward, (2 * kLayers + 1) * value);
      for (int i = 0; i < kLayers; ++i) EXPECT_EQ(seen[static_cast<size_t>(i)], after_forward - 2 * i * value) << i;
      EXPECT_EQ(rig.live(MemoryKind::kActivations), value) << "`outputs`";
    }
  }
}

TEST(memory, gradients_are_written_once_and_where_they_stay) {
  for (const bool meta : {false, true}) {
    Rig rig(meta);
    for (int microbatch = 0; microbatch < 2; ++microbatch) {
      Tape tape;
      Tensor loss;
      {
        const TapeScope scope(tape);
        Tensor x = Tensor::zeros({kRows, kWidth});
        for (Param* w : rig.weights) x = gelu(linear(x, w->use()));
        loss = std::move(x);
      }
      const Tensor outputs[1] = {loss}, seed[1] = {Tensor::zeros(loss.shape())};
      tape.backward(outputs, seed);
    }
    const int64_t one = kWidth * kWidth * 4;
    EXPECT_EQ(rig.peak(MemoryKind::kGradients), kLayers * one) << "one set";
    EXPECT_EQ(rig.live(MemoryKind::kGradients), kLayers * one);
    EXPECT_LE(rig.peak(MemoryKind::kWorkspace), 4 * kRows * kWidth * 4) << "gradients of values only";
    EXPECT_EQ(rig.live(MemoryKind::kWorkspace), 0);
  }
}

// Dearly computed results of a recomputed block come from its first run, and its own result not at all.
TEST(memory, a_block_that_keeps_products_forms_each_once) {
  const auto gemms = [](Keep keep, bool recomputed, Activation last) {
    Rig rig(true);
    Tape tape;
    Tensor out;
    {
      const TapeScope scope(tape);
      const auto block = [&](std::span<const Tensor> in) {
        const Tensor h = gelu(linear(in[0], rig.weights[0]->use()));
        const Tensor g = linear(h, rig.weights[1]->use(), {}, Activation::kGelu);
        const Tensor sum = linear_add_into(h, rig.weights[2]->use(), linear(g, rig.weights[3]->use()), 0.5f);
        const Tensor y = linear(sum, rig.weights[4]->use(), {}, last);
        return last == Activation::kNone ? add_into(h, y) : y;
      };
      const Tensor x = Tensor::zeros({kRows, kWidth});
      out = recomputed ? recompute_block(block, {x}, keep) : block(std::vector<Tensor>{x});
    }
    const Tensor outputs[1] = {out}, seed[1] = {Tensor::zeros(out.shape())};
    tape.backward(outputs, seed);
    return rig.stream->launches_by_kernel().at("gemm");
  };
  for (const Activation last : {Activation::kNone, Activation::kRelu, Activation::kGelu}) {
    const int64_t plain = gemms(Keep::kNothing, false, last);
    EXPECT_EQ(gemms(Keep::kProducts, true, last), plain);
    EXPECT_EQ(gemms(Keep::kNothing, true, last), plain + 5);
  }
}

TEST(memory, convolutions_and_batched_products_are_kept_too) {
  const auto launches = [](Keep keep, bool recomputed) {
    const auto stream = Stream::make_cpu();
    const StreamScope scope(*stream);
    Tape tape;
    Tensor out, watched;
    {
      const TapeScope tape_scope(tape);
      watched = tape.watch(Tensor::zeros({2, 4, 4, 3}));
      const auto block = [w = Tensor::zeros({5, 3, 3, 3}),
                          up = Tensor::zeros({5, 2, 2, 4})](std::span<const Tensor> in) {
        const Tensor map = conv2d(in[0], w, {}, {.pad = {1, 1}}, Activation::kGelu);
        const Tensor wide = conv_transpose2d(map, up, {}, {.stride = {2, 2}}, Activation::kRelu).view({2, 64, 4});
        return gelu(bmm(wide, wide, {.a = true}));
      };
      out = recomputed ? recompute_block(block, {watched}, keep) : block(std::vector<Tensor>{watched});
    }
    const Tensor outputs[1] = {out}, seed[1] = {Tensor::zeros(out.shape())};
    tape.backward(outputs, seed);
    const auto& by_kernel = stream->launches_by_kernel();
    return std::vector<int64_t>{by_kernel.at(ConvWindows::kName), by_kernel.at(ConvAdjoint::kName),
                                by_kernel.at(Bmm::kName)};
  };
  const auto plain = launches(Keep::kNothing, false), again = launches(Keep::kNothing, true);
  EXPECT_EQ(launches(Keep::kProducts, true), plain);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(again[i], plain[i] + 1);
}

// Every way in which a product can end a block, alone and inside another block, gives the same bits.
TEST(memory, keeping_products_changes_no_bit) {
  const auto run = [](int nesting, Activation last, bool into) {
    Rig rig(false);
    Tape tape;
    Tensor out, watched;
    std::vector<float> values;
    {
      const TapeScope scope(tape);
      const auto inner = [&](std::span<const Tensor> in) {
        const Tensor h = linear(gelu(in[0]), rig.weights[0]->use(), {}, Activation::kRelu);
        const Tensor y = linear(h, rig.weights[1]->use(), {}, last);
        return into ? add_into(in[0], linear_add_into(h, rig.weights[2]->use(), y, 0.5f)) : y;
      };
      const auto outer = [&, inner](std::span<const Tensor> in) {
        return linear(recompute_block(inner, {in[0]}, Keep::kProducts), rig.weights[3]->use());
      };
      std::vector<float> x(kRows * kWidth);
      for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) / 8 - 1;
      watched = tape.watch(Tensor::from(x, {kRows, kWidth}));
      const Tensor in[1] = {watched};
      Tensor y = nesting == 0   ? inner(in)
                 : nesting == 1 ? recompute_block(inner, {watched}, Keep::kProducts)
                                : Tensor();
      if (nesting <= 1) y = linear(y, rig.weights[3]->use());
      if (nesting == 2) y = recompute_block(outer, {watched});
      if (nesting == 3) y = recompute_block(outer, {watched}, Keep::kProducts);
      values = y.to_vector<float>();
      out = y;
    }
    const Tensor outputs[1] = {out}, seed[1] = {Tensor::from(values, out.shape())};
    tape.backward(outputs, seed);
    std::vector<std::vector<float>> all{values, tape.grad(watched).to_vector<float>()};
    for (const Param* w : rig.weights)
      if (w->grad_written) all.push_back(w->grad.to_vector<float>());
    return all;
  };
  for (const bool into : {false, true}) {
    for (const Activation last : {Activation::kNone, Activation::kRelu, Activation::kGelu}) {
      if (into && last != Activation::kNone) continue;  // linear_add_into takes no activation's result
      const auto plain = run(0, last, into);
      ASSERT_EQ(plain.size(), into ? 6u : 5u);
      for (int nesting : {1, 2, 3}) EXPECT_EQ(run(nesting, last, into), plain) << nesting;
    }
  }
}

TEST(memory, ops_that_write_over_an_operand_give_what_others_give) {
  Rig rig(false);
  std::vector<float> v(kRows * kWidth);
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i % 13) / 7 - 1;
  const Tensor x = Tensor::from(v, {kRows, kWidth}), base = linear(x, rig.weights[0]->value);
  const Tensor w = rig.weights[1]->value;
  const std::vector<float> want = linear_add(x, w, base, 0.75f).to_vector<float>();
  const int64_t before = rig.stream->allocator()->stats().allocations;
  const Tensor y = linear_add_into(x, w, base, 0.75f);
  EXPECT_EQ(rig.stream->allocator()->stats().allocations, before);
  EXPECT_EQ(y.storage_id(), base.storage_id());
  EXPECT_EQ(y.to_vector<float>(), want);
  EXPECT_THROW(linear_add_into(x, w, Tensor::zeros({kRows, 3}), 1), ShapeError);
  const std::vector<float> sum = add(x, y).to_vector<float>();
  const Tensor into = add_into(x, y);
  EXPECT_EQ(into.storage_id(), base.storage_id());
  EXPECT_EQ(into.to_vector<float>(), sum);
  EXPECT_THROW(add_into(x, Tensor::zeros({kRows, 3})), ShapeError);
}

}  // namespace
}  // namespace tpo
