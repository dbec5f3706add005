// Layers and the whole model on 2, 3 and 4 ranks of the tensor axis against the same classes on a group of one.
#include "core/ops/layout.h"
#include "parallel/comm/threads.h"
#include "tests/model/tensor_parallel_fixture.h"

namespace tpo::testing {
namespace {

constexpr int64_t kRows = 7;  // no multiple of 2, 3 or 4

// ---- single layers

using Layer = std::function<Tensor(const Tensor& x)>;  // whole -> whole, on every rank

const LoraConfig kLora{.rank = 3, .alpha = 6, .dropout = 0.4f};
const Init kInit = Init::normal(0, 0.3f);

DropoutContext dropout_context() {
  std::vector<int64_t> ids(kRows);
  std::iota(ids.begin(), ids.end(), int64_t{1} << 33);
  return {RngKey(5), Tensor::from(ids, {kRows})};
}

// Two sequences of 3 and 4 rows.
Tensor boundaries() { return Tensor::from(std::vector<int32_t>{0, 3, 7}, {3}); }
SequenceContext sequences() {
  return {boundaries(), Tensor::from(std::vector<int32_t>{0, 1, 2, 0, 1, 2, 3}, {kRows}), dropout_context()};
}

// This rank's columns of a whole x.
Tensor own_columns(const Tensor& x, const TensorParallel& tp) {
  const int64_t C = x.dim(1);
  const Range part = balanced_part(C, tp.rank(), tp.size());
  return split_last(copy_to(x, *tp.group), {part.begin, part.size(), C - part.end})[1];
}

// A layer that works on the stream, between its two ends.
template <class Run>
Layer on_stream(const TensorParallel& tp, Run run) {
  return [tp, run](const Tensor& x) { return tp.end_stream(run(tp.begin_stream(x)), kRows); };
}

struct LayerCase {
  const char* name;
  int64_t width;
  std::function<Layer(const ParamScope&, const TensorParallel&)> make;
};

Layer causal(const ParamScope& s, const TensorParallel& tp, int64_t heads, int64_t kv) {
  const std::shared_ptr<ProcessGroup> sharers = split_kv_sharers(kv, tp);
  const auto layer =
      std::make_shared<CausalAttention>(s, CausalAttentionConfig{10, heads, kv, 4, true, 1e4f, sharers.get()}, tp,
                                        kInit, CausalAttention::Lora{kLora, kLora, kLora, kLora});
  return on_stream(tp, [=, keep = sharers](const Tensor& x) { return (*layer)(x, sequences()); });
}

Layer decoder_block(const ParamScope& s, const TensorParallel& tp, Recompute recompute) {
  DecoderBlockConfig c;
  const std::shared_ptr<ProcessGroup> sharers = split_kv_sharers(2, tp);
  c.attention = {10, 6, 2, 4, false, 1e4f, sharers.get()};
  c.mlp_hidden = 13;
  c.attention_lora = {kLora, kLora, kLora, kLora};
  c.gate_lora = c.up_lora = c.down_lora = kLora;
  c.init = kInit;
  const auto layer = std::make_shared<DecoderBlock>(s, c, tp);
  return on_stream(tp, [=, keep = sharers](const Tensor& x) { return (*layer)(x, sequences(), recompute); });
}

Layer vision_block(const ParamScope& s, const TensorParallel& tp, Recompute recompute,
                   const VisionBlockStyle& style = {}) {
  const auto layer = std::make_shared<VisionBlock>(s, 10, 5, 13, 1e-5f, tp, style);
  return on_stream(tp, [=](const Tensor& x) { return (*layer)(x, boundaries(), recompute, kRows); });
}

std::vector<LayerCase> layer_cases() {
  std::vector<LayerCase> cases = {
      {"column", 6,
       [](const ParamScope& s, const TensorParallel& tp) -> Layer {
         const auto layer = std::make_shared<Linear>(s, 6, 11, Split::kColumn, tp, Bias::kYes, kInit);
         return [=](const Tensor& x) {
           return join_columns((*layer)(copy_to(x, *tp.group), Activation::kGelu), 11, *tp.group);
         };
       }},
      {"row", 11,
       [](const ParamScope& s, const TensorParallel& tp) -> Layer {
         const auto layer = std::make_shared<Linear>(s, 11, 6, Split::kRow, tp, Bias::kYes, kInit);
         return [=](const Tensor& x) { return tp.end_stream((*layer)(own_columns(x, tp)), kRows); };
       }},
      {"lora column", 6,
       [](const ParamScope& s, const TensorParallel& tp) -> Layer {
         const auto layer = std::make_shared<LoraLinear>(s, 6, 11, Split::kColumn, tp, Bias::kYes, kInit, kLora);
         return [=](const Tensor& x) {
           return join_columns((*layer)(copy_to(x, *tp.group), dropout_context()), 11, *tp.group);
         };
       }},
      {"lora row", 11,
       [](const ParamScope& s, const TensorParallel& tp) -> Layer {
         const auto layer = std::make_shared<LoraLinear>(s, 11, 6, Split::kRow, tp, Bias::kYes, kInit, kLora);
         return [=](const Tensor& x) { return tp.end_stream((*layer)(own_columns(x, tp), dropout_context()), kRows); };
       }},
      {"gelu mlp", 6,
       [](const ParamScope& s, const TensorParallel& tp) -> Layer {
         const auto layer = std::make_shared<GeluMlp>(s, 6, 13, tp);
         return on_stream(tp, [=](const Tensor& x) { return (*layer)(x, kRows); });
       }},
      {"swiglu mlp", 6,
       [](const ParamScope& s, const TensorParallel& tp) -> Layer {
         const auto layer = std::make_shared<SwigluMlp>(s, 6, 13, tp, kInit, kLora, kLora, kLora);
         return on_stream(tp, [=](const Tensor& x) { return (*layer)(x, kRows, dropout_context()); });
       }},
      {"norms", 6,
       [](const ParamScope& s, const TensorParallel& tp) -> Layer {
         const auto rms = std::make_shared<RmsNorm>(s / "rms", 6, 1e-5f, tp.stream_group());
         const auto ln = std::make_shared<LayerNorm>(s / "ln", 6, 1e-5f, tp.stream_group());
         return on_stream(tp, [=](const Tensor& x) { return ln->after_sum(x, (*rms)(x)).normed; });
       }},
      {"vision attention", 10,
       [](const ParamScope& s, const TensorParallel& tp) -> Layer {
         const auto layer = std::make_shared<VisionAttention>(s, 10, 5, tp);
         return on_stream(tp, [=](const Tensor& x) { return (*layer)(x, kRows, boundaries()); });
       }},
  };
  for (const auto& [name, heads, kv] :
       {std::tuple{"attention 6/2", 6, 2}, {"attention 5/1", 5, 1}, {"attention 8/4", 8, 4}, {"attention 10/5", 10, 5}})
    cases.push_back({name, 10, [heads = heads, kv = kv](const ParamScope& s, const TensorParallel& tp) {
                       return causal(s, tp, heads, kv);
                     }});
  for (const auto& [mode, vision, decoder] :
       {std::tuple{Recompute::kNone, "vision block", "decoder block"},
        {Recompute::kSelective, "vision block, selective", "decoder block, selective"},
        {Recompute::kFull, "vision block, full", "decoder block, full"}}) {
    const Recompute recompute = mode;
    cases.push_back(
        {vision, 10, [=](const ParamScope& s, const TensorParallel& tp) { return vision_block(s, tp, recompute); }});
    cases.push_back({"siglip block", 10, [=](const ParamScope& s, const TensorParallel& tp) {
                       return vision_block(s, tp, recompute, {QkvProjection::kSeparate, Activation::kGeluTanh});
                     }});
    cases.push_back(
        {decoder, 10, [=](const ParamScope& s, const TensorParallel& tp) { return decoder_block(s, tp, recompute); }});
  }
  return cases;
}

struct LayerRun {
  ParamStore store{7};
  std::vector<float> y, dx;
  Gradients gradients;

  LayerRun(const LayerCase& c, const TensorParallel& tp) {
    const Layer layer = c.make(ParamScope(store, "layer"), tp);
    fill_with_noise(store);
    Tape tape;
    const TapeScope scope(tape);
    const Tensor x = tape.watch(noise_tensor("x", {kRows, c.width}));
    const Tensor out = layer(x);
    const Tensor outputs[1] = {out}, grads[1] = {noise_tensor("dy", out.shape())};
    tape.backward(outputs, grads);
    y = out.to_vector<float>(), dx = tape.grad(x).to_vector<float>();
    gradients = take_gradients(store);
  }
};

// Sums of up to 13 * 7 products of unit size in another order, through at most six layers: tens of roundings of 6e-8.
constexpr double kLayerTolerance = 5e-6;

TEST(TensorParallelLayers, equal_those_of_one_rank) {
  for (const LayerCase& c : layer_cases())
    for (const int n : {2, 3, 4})
      for (const bool sequence : {false, true})
        run_ranks(n, [&](ProcessGroup& world) {
          const std::string what = cat(c.name, " on ", n, sequence ? " with cut sequences" : "");
          const auto alone = make_single();
          const LayerRun part(c, TensorParallel(world, sequence)), whole(c, TensorParallel(*alone));
          EXPECT_LE(relative_difference(part.y, whole.y), kLayerTolerance) << what;
          EXPECT_LE(relative_difference(part.dx, whole.dx), kLayerTolerance) << what;
          EXPECT_EQ(other_bits(world, part.y, what + ", y"), "");
          EXPECT_EQ(other_bits(world, part.dx, what + ", dx"), "");
          EXPECT_EQ(other_parts(world, part.store, part.gradients, whole.store, whole.gradients, kLayerTolerance), "")
              << what;
        });
}

// A block's collectives forward and backward. Selective recompute keeps sums; what it gathers it gathers again.
TEST(TensorParallelLayers, issue_two_collectives_a_branch_and_pass_and_recompute_says_which_again) {
  struct Count {
    bool sequence;
    Recompute recompute;
    uint64_t issued;
  };
  for (const Count c : {Count{false, Recompute::kNone, 4},
                        {false, Recompute::kSelective, 4},
                        {false, Recompute::kFull, 6},
                        {true, Recompute::kNone, 8},
                        {true, Recompute::kSelective, 10},
                        {true, Recompute::kFull, 12}})
    run_ranks(2, [&](ProcessGroup& world) {
      ParamStore store(7);
      const VisionBlock block(ParamScope(store, "block"), 10, 5, 13, 1e-5f, TensorParallel(world, c.sequence));
      store.set_trainable("*norm?.*", false);  // each of these, and biases of cut sequences, is a sum of its own
      store.set_trainable("*fc2.bias", false), store.set_trainable("*proj.bias", false);
      Tape tape;
      const TapeScope scope(tape);
      const Tensor x = tape.watch(noise_tensor("x", {c.sequence ? 4 : kRows, 10}));
      const uint64_t before = world.collectives_issued();
      const Tensor y = block(x, boundaries(), c.recompute, kRows);
      const Tensor outputs[1] = {y}, grads[1] = {noise_tensor("dy", y.shape())};
      tape.backward(outputs, grads);
      EXPECT_EQ(world.collectives_issued() - before, c.issued) << c.sequence << static_cast<int>(c.recompute);
    });
}

TEST(TensorParallelLayers, with_nothing_for_a_rank_are_refused_by_name) {
  run_ranks(3, [](ProcessGroup& world) {
    ParamStore store(1);
    const ParamScope s(store, "language");
    const TensorParallel tp(world);
    EXPECT_NO_THROW(Linear(s / "whole", 1, 1, Split::kNone, tp, Bias::kNo, kInit));
    const auto refused = [](const auto& make, const std::string& part) {
      try {
        make();
        ADD_FAILURE() << "no error, expected: " << part;
      } catch (const ConfigError& e) {
        EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
      }
    };
    refused([&] { Linear(s / "up", 4, 2, Split::kColumn, tp, Bias::kNo, kInit); }, "language.up has 2 outputs");
    refused([&] { Linear(s / "down", 2, 4, Split::kRow, tp, Bias::kNo, kInit); }, "language.down has 2 inputs");
    refused([&] { VisionAttention(s / "vit", 8, 2, tp); }, "language.vit has 2 heads");
    refused([&] { CausalAttention(s / "attn", {8, 2, 1, 4}, tp, kInit, {}); }, "language.attn has 2 heads");
    refused([&] { CausalAttention(s / "gqa", {8, 4, 2, 4}, tp, kInit, {}); }, "language.gqa has 2 key-value heads");
  });
}

TEST(TensorParallelLayers, initial_values_are_those_of_one_rank) {
  TpoConfig config = tiny_config();
  config.vision.heads = 4;
  for (const int n : {2, 3, 4})
    run_ranks(n, [&](ProcessGroup& world) {
      ParamStore store(7);
      const TpoModel model(store, config, world);
      const Rig whole(config);
      ASSERT_EQ(store.params().size(), whole.store.params().size());
      for (const auto& p : store.params()) {
        const Param& other = *whole.store.find(p->name);
        // The mean of old rows too, which is added in the same order.
        EXPECT_TRUE(p->value.to_vector<float>() == elements_of(other.value.to_vector<float>(), *p)) << p->name;
        if (other.frozen_rows_begin < 0) continue;
        const Rect part = p->rects()[0];
        const int64_t frozen = std::max<int64_t>(0, part.row + part.rows - other.frozen_rows_begin);
        EXPECT_EQ(p->frozen_rows_begin, frozen == 0 ? -1 : part.rows - std::min(frozen, part.rows)) << p->name;
      }
    });
}

// Row by row the sum is 0 and then 1; with sums of parts added at the end the 1 would be lost.
TEST(TensorParallelLayers, the_mean_of_a_table_is_added_in_the_order_of_rows) {
  const std::vector<float> rows = {0x1p60f, -0x1p60f, 1, 0};  // 3 and one that is added to them
  run_ranks(2, [&](ProcessGroup& world) {
    ParamStore store(7);
    const Range mine = world.rank() == 0 ? Range{0, 1} : Range{1, 4};
    Param& table = store.create("table", {4, 1}, {mine.size(), 1}, Cut{{mine}, nullptr}.rows_of({4, 1}), kInit, 0);
    std::copy(rows.begin() + mine.begin, rows.begin() + mine.end, table.value.data<float>());
    init_added_rows(table, 3, AddedRows::kTrained, mine, world);
    EXPECT_EQ(table.value.to_vector<float>().back(), world.rank() == 0 ? 0x1p60f : 1.0f / 3);
  });
}

// ---- the whole model

TEST(TensorParallelModel, loss_states_and_gradients_are_those_of_one_rank) {
  for (const ModelCase& m : kModels)
    for (const int n : {2, 3, 4})
      for (const bool sequence : {false, true})
        run_ranks(n, [&](ProcessGroup& world) {
          const auto alone = make_single();
          const ModelRun whole(m, config_of(m, false, Recompute::kNone), *alone);
          Gradients first;
          for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
            const std::string what = cat(m.name, " on ", n, sequence ? " with cut sequences" : "", ", recompute ",
                                         static_cast<int>(recompute));
            const ModelRun part(m, config_of(m, sequence, recompute), world);
            EXPECT_NEAR(part.loss, whole.loss, 1e-5 * whole.loss) << what;
            EXPECT_EQ(other_bits(world, {static_cast<float>(part.loss)}, "loss"), "");
            EXPECT_EQ(other_bits(world, part.states, "states"), "");
            EXPECT_LE(relative_difference(part.states, whole.states), 1e-5) << what;
            EXPECT_EQ(other_parts(world, part.store, part.gradients, whole.store, whole.gradients, kModelTolerance), "")
                << what;
            if (recompute == Recompute::kNone) first = part.gradients;
            EXPECT_TRUE(part.gradients == first) << what << ": recompute changes bits";
          }
        });
}

TEST(TensorParallelModel, cut_sequences_keep_less_and_recompute_less_still) {
  run_ranks(4, [&](ProcessGroup& world) {
    int64_t kept[2] = {INT64_MAX, INT64_MAX};
    for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
      int64_t now[2];
      for (const bool sequence : {false, true}) {
        TpoConfig c = config_of(kModels[0], sequence, recompute);
        c.vision.depth = 6, c.language.layers = 10;  // what blocks keep is more than what one block uses
        now[sequence] = ModelRun(kModels[0], c, world).activations_bytes;
        EXPECT_LT(now[sequence], kept[sequence]) << static_cast<int>(recompute);
        kept[sequence] = now[sequence];
      }
      EXPECT_LT(now[true], now[false]) << static_cast<int>(recompute);
    }
  });
}

TEST(TensorParallelModel, merged_adapters_and_generated_tokens_are_those_of_one_rank) {
  for (const int n : {2, 3, 4})
    for (const bool sequence : {false, true})
      for (const auto& [merged, beams] : {std::pair{false, 1}, {true, 1}, {false, 3}, {true, 4}})
        run_ranks(n, [&, merged = merged, beams = beams](ProcessGroup& world) {
          const TpoConfig config = config_of(kModels[0], sequence, Recompute::kNone);
          const auto written = [&](ProcessGroup& tp) {
            ParamStore store(7);
            TpoModel model(store, config, tp);
            fill_with_noise(store);
            if (merged) model.merge_lora();
            GenerateOptions options;
            options.max_new_tokens = 24, options.eos_id = -1;
            options.num_beams = beams, options.sample = merged, options.key = RngKey(n);
            options.rules = {.repetition_penalty = 1.1f, .no_repeat_ngram = 3};
            options.state_without_trigger = sequence;
            return generate(model, pack(model, {make_sample(model, "p", 5, true, 1, true)}), options);
          };
          const auto alone = make_single();
          const Generation part = written(world), whole = written(*alone);
          EXPECT_EQ(part.tokens, whole.tokens) << n << sequence << merged << beams;
          ASSERT_EQ(part.boxes.size(), whole.boxes.size());
          for (size_t i = 0; i < part.boxes.size(); ++i)
            for (size_t k = 0; k < 4; ++k) EXPECT_NEAR(part.boxes[i].raw[k], whole.boxes[i].raw[k], 1e-4);
        });
}

TEST(TensorParallelModel, operations_are_counted_for_the_whole_model) {
  run_ranks(3, [](ProcessGroup& world) {
    const TpoConfig config = config_of(kModels[0], true, Recompute::kNone);
    ParamStore store(7);
    const TpoModel model(store, config, world);
    const Rig whole(config);
    const MicrobatchSize size = size_of_batch(samples_for(model));
    EXPECT_EQ(model.flops(size), whole.model.flops(size));
  });
}

}  // namespace
}  // namespace tpo::testing
