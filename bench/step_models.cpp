#include "bench/step_models.h"

#include <chrono>
#include <numeric>

#include "core/ops/layout.h"
#include "core/ops/loss.h"
#include "core/ops/pointwise.h"
#include "model/language/decoder.h"
#include "parallel/sharding/bucket_sync.h"

namespace tpo {

namespace {

constexpr StepConfig kConfigs[] = {
    {.name = "small",
     .width = 256,
     .layers = 4,
     .heads = 4,
     .kv_heads = 2,
     .head_dim = 64,
     .hidden = 768,
     .outputs = 8192,
     .batch = 8,
     .tokens = 256},
    {.name = "medium",
     .width = 512,
     .layers = 8,
     .heads = 8,
     .kv_heads = 4,
     .head_dim = 64,
     .hidden = 1408,
     .outputs = 8192,
     .batch = 4,
     .tokens = 512},
    {.name = "vit",
     .decoder = false,
     .width = 384,
     .layers = 6,
     .heads = 6,
     .kv_heads = 6,
     .head_dim = 64,
     .hidden = 1536,
     .outputs = 1000,
     .batch = 8,
     .tokens = 197,
     .image = 224,
     .patch = 16},
    // The parts of the quickstart's model, at batches where a step is many small ops.
    {.name = "nano_decoder",
     .width = 128,
     .layers = 3,
     .heads = 8,
     .kv_heads = 4,
     .head_dim = 32,
     .hidden = 352,
     .outputs = 512,
     .batch = 1,
     .tokens = 64},
    {.name = "nano_vit",
     .decoder = false,
     .width = 96,
     .layers = 2,
     .heads = 4,
     .kv_heads = 4,
     .head_dim = 24,
     .hidden = 288,
     .outputs = 10,
     .batch = 2,
     .tokens = 37,
     .image = 72,
     .patch = 12},
};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// (sequences + 1) ends of equal lengths.
Tensor equal_ends(int64_t sequences, int64_t length) {
  std::vector<int32_t> ends;
  for (int64_t i = 0; i <= sequences; ++i) ends.push_back(static_cast<int32_t>(i * length));
  return Tensor::from(ends, {sequences + 1});
}

Tensor random_ids(RngKey key, int64_t n, int64_t limit) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i)
    ids.push_back(static_cast<int32_t>(philox(key, static_cast<uint64_t>(i))[0] % static_cast<uint64_t>(limit)));
  return Tensor::from(ids, {n});
}

// The step around a model's loss.
class SteppedModel : public StepModel {
 public:
  StepTimes step(int64_t index) override {
    make_data(RngKey(1).with(static_cast<uint64_t>(index)).with(static_cast<uint64_t>(data().rank())));
    StepTimes t;
    Tape tape;
    Tensor loss;
    const auto begin = std::chrono::steady_clock::now();
    {
      const TapeScope scope(tape);
      sync_->begin_step({.local = {1}, .global = {1}});
      sync_->begin_microbatch();
      loss = forward();
    }
    t.forward_s = seconds_since(begin);
    sync_->end_forward();
    tape.backward(loss);
    t.backward_s = seconds_since(begin) - t.forward_s;
    sync_->finish_grads(Stream::current());
    sync_->step({.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f});
    t.optimizer_s = seconds_since(begin) - t.forward_s - t.backward_s;
    t.loss = loss.item();
    return t;
  }
  int64_t parameters() const override { return store_.numel(); }

 protected:
  SteppedModel(const StepConfig& config, const StepLayout& layout)
      : c_(config), layout_(layout), cu_(equal_ends(c_.batch, c_.tokens)) {}
  ProcessGroup& data() const { return layout_.data != nullptr ? *layout_.data : *alone_; }
  ProcessGroup& tensor() const { return layout_.tensor != nullptr ? *layout_.tensor : *alone_; }
  // What a loss is multiplied by to be the mean over `rows` rows of each rank.
  float mean_of(int64_t rows) const { return 1.0f / static_cast<float>(rows * data().size()); }
  // Called when all parameters exist.
  void own_parameters() {
    for (const auto& p : store_.params()) p->decay = true;
    SyncGroups groups(data());
    groups.tensor = &tensor();
    BucketOptions options;
    options.bucket_bytes = int64_t{1} << 20;  // as layout.bucket_bytes
    options.sharding = layout_.sharding;
    sync_ = std::make_unique<BucketSync>(store_, groups, options);
  }
  virtual void make_data(RngKey key) = 0;
  virtual Tensor forward() = 0;

  const StepConfig c_;
  const StepLayout layout_;
  const Tensor cu_;
  ParamStore store_{7};
  const std::unique_ptr<ProcessGroup> alone_ = make_single();
  std::unique_ptr<BucketSync> sync_;
};

LanguageConfig language_config(const StepConfig& c, bool sequence_parallel) {
  LanguageConfig l;
  l.sequence_parallel = sequence_parallel;
  l.vocab = c.outputs, l.new_tokens = 0, l.width = c.width, l.layers = c.layers, l.heads = c.heads;
  l.kv_heads = c.kv_heads, l.head_dim = c.head_dim, l.mlp_hidden = c.hidden, l.rope_theta = 1e4f;
  return l;  // initial weights of 0.02, eps 1e-5, no adapters, nothing recomputed
}

class DecoderStep final : public SteppedModel {
 public:
  DecoderStep(const StepConfig& c, const StepLayout& layout)
      : SteppedModel(c, layout), decoder_(store_, language_config(c, layout.sequence_parallel), tensor()) {
    std::vector<int32_t> positions(static_cast<size_t>(c.batch * c.tokens));
    for (size_t i = 0; i < positions.size(); ++i)
      positions[i] = static_cast<int32_t>(i) % static_cast<int32_t>(c.tokens);
    context_ = {cu_, Tensor::from(positions, {c.batch * c.tokens}), {}};
    own_parameters();
  }

 private:
  void make_data(RngKey key) override {
    ids_ = random_ids(key.with("ids"), c_.batch * c_.tokens, c_.outputs);
    targets_ = random_ids(key.with("targets"), c_.batch * c_.tokens, c_.outputs);
  }
  Tensor forward() override {
    return decoder_.loss(decoder_(decoder_.embed(ids_), context_), targets_, mean_of(c_.batch * c_.tokens), {});
  }

  Decoder decoder_;
  SequenceContext context_;
  Tensor ids_, targets_;
};

// Patches, a class token and learned positions, pre-norm blocks, the norm and a biased head on the class rows. The key
// bias, which changes no softmax, does not exist in VisionAttention.
class VitStep final : public SteppedModel {
 public:
  VitStep(const StepConfig& c, const StepLayout& layout)
      : SteppedModel(c, layout),
        patch_(ParamScope(store_) / "patch", 3 * c.patch * c.patch, c.width, Split::kNone, *alone_, Bias::kYes,
               fan_in_uniform(3 * c.patch * c.patch)),
        cls_(store_.create("cls", {1, c.width}, Init::constant(0), 0)),
        positions_(store_.create("positions", {c.tokens * c.width}, Init::normal(0, 0.02f), 0)),
        blocks_(make_blocks(c)),
        norm_(ParamScope(store_) / "norm", c.width, 1e-5f),
        head_(store_.create("head.weight", {c.outputs, c.width}, fan_in_uniform(c.width), 0)),
        head_bias_(store_.create("head.bias", {c.outputs, 1}, Init::constant(0), 0)),
        ones_(Tensor::from(std::vector<float>(static_cast<size_t>(c.batch), 1.0f), {c.batch, 1})) {
    std::vector<int32_t> order, classes;
    for (int64_t b = 0; b < c.batch; ++b) {
      classes.push_back(static_cast<int32_t>(b * c.tokens));
      order.push_back(0);
      for (int64_t p = 1; p < c.tokens; ++p) order.push_back(static_cast<int32_t>(b * (c.tokens - 1) + p));
    }
    order_ = Tensor::from(order, {c.batch * c.tokens});
    class_rows_ = Tensor::from(classes, {c.batch});
    std::vector<float> pixels(static_cast<size_t>(c.batch * c.image * c.image * 3));
    for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = 2 * uniform01(philox(RngKey(2), i)[0]) - 1;
    images_ = Tensor::from(pixels, {c.batch, 1, c.image, c.image, 3});
    own_parameters();
  }

 private:
  std::vector<VisionBlock> make_blocks(const StepConfig& c) {
    std::vector<VisionBlock> blocks;
    blocks.reserve(static_cast<size_t>(c.layers));
    for (int i = 0; i < c.layers; ++i)
      blocks.emplace_back(ParamScope(store_) / "blocks" / i, c.width, c.heads, c.hidden, 1e-5f, *alone_);
    return blocks;
  }
  void make_data(RngKey key) override { targets_ = random_ids(key, c_.batch, c_.outputs); }
  Tensor forward() override {
    const Tensor patches = patch_(patchify(images_, c_.patch, 1));
    Tensor x = gather_rows(concat_rows({cls_.use(), patches}), order_);
    x = add_bias(x.view({c_.batch, c_.tokens * c_.width}), positions_.use()).view({c_.batch * c_.tokens, c_.width});
    for (const VisionBlock& block : blocks_) x = block(x, cu_);
    const Tensor classes = norm_(gather_rows(x, class_rows_));
    const Tensor weight = head_.use();  // the bias is a low-rank term whose input is 1
    return vocab_cross_entropy(classes, weight, targets_, mean_of(c_.batch), ones_, head_bias_.use());
  }

  Linear patch_;
  Param &cls_, &positions_;
  std::vector<VisionBlock> blocks_;
  LayerNorm norm_;
  Param &head_, &head_bias_;
  Tensor ones_, order_, class_rows_, images_, targets_;
};

}  // namespace

AttentionShape StepConfig::attention() const {
  return {.segments = batch,
          .q_rows = batch * tokens,
          .k_rows = batch * tokens,
          .q_heads = heads,
          .kv_heads = kv_heads,
          .dim = head_dim,
          .causal = decoder};
}

double StepConfig::attention_flops() const {
  return static_cast<double>(layers * attention().scores() * 2 * head_dim * 7);
}

double StepConfig::linear_flops() const {
  const int64_t rows = batch * tokens, kv = kv_heads * head_dim, q = heads * head_dim;
  const int64_t block = width * (2 * q + 2 * kv) + (decoder ? 3 : 2) * width * hidden;
  const int64_t blocks = 3 * 2 * rows * layers * block;
  if (decoder) return static_cast<double>(blocks + 3 * 2 * rows * width * outputs);
  // Images want no gradient: two products of the patches, not three.
  const int64_t patches = 2 * 2 * batch * (tokens - 1) * 3 * patch * patch * width;
  return static_cast<double>(blocks + patches + 3 * 2 * batch * width * outputs);
}

double StepConfig::nominal_flops() const {
  return linear_flops() + static_cast<double>(3 * 2 * 2 * layers * batch * heads * tokens * tokens * head_dim);
}

StepConfig step_config(std::string_view name) {
  std::string names;
  for (const StepConfig& c : kConfigs) {
    if (c.name == name) return c;
    names += (names.empty() ? "" : ", ") + std::string(c.name);
  }
  throw ConfigError(cat("no model '", name, "'; there are ", names));
}

std::unique_ptr<StepModel> make_step_model(const StepConfig& c, const StepLayout& layout) {
  if (c.decoder) return std::make_unique<DecoderStep>(c, layout);
  check<ConfigError>(layout.tensor == nullptr, "model ", c.name, " is not cut over a tensor axis");
  return std::make_unique<VitStep>(c, layout);
}

}  // namespace tpo
