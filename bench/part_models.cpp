#include "bench/part_models.h"

#include <chrono>
#include <functional>

#include "model/presets.h"

namespace tpo {

double Part::step() {
  const auto begin = std::chrono::steady_clock::now();
  for (const auto& p : store_.params()) p->grad_written = false;
  {
    Tape tape;
    std::vector<Tensor> outputs;
    {
      const TapeScope scope(tape);
      outputs = forward(tape);
    }
    tape.backward(outputs, seeds_);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

namespace {

constexpr int64_t kRows = 160, kFrames = 4, kFirstVisual = 1, kBoxIn = 20, kBoxes = 150;

// Uniform in +-1.
Tensor random(const Shape& shape, uint64_t seed) {
  std::vector<float> v(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = 2 * uniform01(philox(RngKey(seed), i)[0]) - 1;
  return Tensor::from(v, shape);
}

// f(0) .. f(n - 1)
Tensor indices(int64_t n, const std::function<int64_t(int64_t)>& f) {
  std::vector<int32_t> v;
  for (int64_t i = 0; i < n; ++i) v.push_back(static_cast<int32_t>(f(i)));
  return Tensor::from(v, {n});
}

Tensor random_ids(uint64_t seed, int64_t n, int64_t limit) {
  return indices(n, [=](int64_t i) {
    return static_cast<int64_t>(philox(RngKey(seed), static_cast<uint64_t>(i))[0] % static_cast<uint64_t>(limit));
  });
}

// (B, 4) corners in order, in 0..1
Tensor boxes(int64_t n) {
  std::vector<float> v;
  for (int64_t i = 0; i < n; ++i) {
    const auto w = philox(RngKey(5), static_cast<uint64_t>(i));
    const float x = 0.5f * uniform01(w[0]), y = 0.5f * uniform01(w[1]);
    v.insert(v.end(), {x, y, x + 0.1f + 0.4f * uniform01(w[2]), y + 0.1f + 0.4f * uniform01(w[3])});
  }
  return Tensor::from(v, {n, 4});
}

Tensor ends(int64_t n, int64_t length) {
  return indices(n + 1, [=](int64_t i) { return i * length; });
}

TpoConfig config() {
  TpoConfig c = preset("nano");
  c.connector.qformer.text_vocab = 0;
  c.language.detach_embeddings = true;
  return c;
}

class VisionPart final : public Part {
 public:
  explicit VisionPart(int64_t B)
      : vision_(make_vision_encoder(ParamScope(store_), config().vision, *alone_)),
        images_(random({B, kFrames, config().vision.image_size, config().vision.image_size, 3}, 1)) {
    const int64_t tokens = vision_->grid(B, kFrames).tokens_per_media() * B;
    seeds_ = {random({tokens, config().vision.width}, 2)};
  }

 private:
  std::vector<Tensor> forward(Tape&) override { return {(*vision_)(images_)}; }
  std::unique_ptr<VisionEncoder> vision_;
  Tensor images_;
};

class ConnectorPart final : public Part {
 public:
  explicit ConnectorPart(int64_t B)
      : qformer_(ParamScope(store_), config().connector.qformer, config().vision.width, config().language.width,
                 *alone_) {
    const int64_t side = config().vision.image_size / config().vision.patch;
    grid_ = {B, kFrames, side, side};
    tokens_ = random({B * grid_.tokens_per_media(), config().vision.width}, 1);
    seeds_ = {random({B * qformer_.slots(grid_), config().language.width}, 2)};
  }

 private:
  std::vector<Tensor> forward(Tape& tape) override {
    return {qformer_({.vision = tape.watch(tokens_), .grid = grid_})};
  }
  QFormer qformer_;
  PatchGrid grid_;
  Tensor tokens_;
};

class LanguagePart final : public Part {
 public:
  LanguagePart(int64_t B, bool lora)
      : lora_(lora),
        decoder_(ParamScope(store_), language(lora), *alone_),
        context_{ends(B, kRows), indices(B * kRows, [](int64_t i) { return i % kRows; }), {}},
        ids_(random_ids(1, B * kRows, language(lora).vocab)),
        targets_(random_ids(2, B * kRows, language(lora).vocab)),
        rows_(random({B * kRows, language(lora).width}, 3)) {
    store_.set_trainable("*", !lora);
    store_.set_trainable("*lora_*", true);
    seeds_ = {{}};
  }

 private:
  static LanguageConfig language(bool lora) {
    LanguageConfig l = config().language;
    l.detach_embeddings = lora;
    if (!lora) l.lora_rank = 0;
    return l;
  }
  std::vector<Tensor> forward(Tape& tape) override {
    const Tensor x = lora_ ? tape.watch(rows_) : decoder_.embed(ids_);
    return {decoder_.loss(decoder_(x, context_), targets_, 1.0f / static_cast<float>(targets_.numel()), {})};
  }
  bool lora_;
  Decoder decoder_;
  SequenceContext context_;
  Tensor ids_, targets_, rows_;
};

class RegionPart final : public Part {
 public:
  explicit RegionPart(int64_t B)
      : head_(ParamScope(store_) / "region", config().language.width, config().region, *alone_),
        encoder_(ParamScope(store_) / "box_encoder", config().box_encoder_hidden, config().language.width, *alone_),
        states_(random({B, config().language.width}, 1)),
        boxes_(boxes(B)) {
    seeds_ = {{}, random({B, config().language.width}, 2)};
  }

 private:
  std::vector<Tensor> forward(Tape& tape) override {
    const float scale = 1.0f / static_cast<float>(boxes_.dim(0));
    return {region_loss(head_(tape.watch(states_)), boxes_, config().region, scale), encoder_(boxes_)};
  }
  RegionHead head_;
  BoxEncoder encoder_;
  Tensor states_, boxes_;
};

class WholePart final : public Part {
 public:
  explicit WholePart(int64_t B)
      : model_(store_, config(), *alone_), scales_{1.0f / static_cast<float>(B * kRows), 1.0f / static_cast<float>(B)} {
    store_.set_trainable("language.*", false);
    store_.set_trainable("*lora_*", true);
    for (const char* unused : {"task_tokens.temporal", "task_tokens.track"}) store_.set_trainable(unused, false);
    const int64_t vocab = config().language.vocab, side = config().vision.image_size;
    const int64_t slots = model_.visual_slots_per_media(kFrames);
    batch_.set("tokens", random_ids(1, B * kRows, vocab));
    batch_.set("targets", random_ids(2, B * kRows, vocab));
    batch_.set("positions", indices(B * kRows, [](int64_t i) { return i % kRows; }));
    batch_.set("cu_seqlens", ends(B, kRows));
    batch_.set("images", random({B, kFrames, side, side, 3}, 3));
    batch_.set("visual_rows",
               indices(B * slots, [=](int64_t i) { return i / slots * kRows + kFirstVisual + i % slots; }));
    batch_.set("region_rows", indices(B, [](int64_t i) { return i * kRows + kBoxes; }));
    batch_.set("region_targets", boxes(B));
    batch_.set("box_in_rows", indices(B, [](int64_t i) { return i * kRows + kBoxIn; }));
    batch_.set("box_in", boxes(B));
    seeds_ = {{}};
  }

 private:
  std::vector<Tensor> forward(Tape&) override { return {model_.loss(batch_, scales_, {}).total}; }
  TpoModel model_;
  TpoModel::Scales scales_;
  Batch batch_;
};

template <class P, auto... args>
std::unique_ptr<Part> make(int64_t batch) {
  return std::make_unique<P>(batch, args...);
}

constexpr std::pair<std::string_view, std::unique_ptr<Part> (*)(int64_t)> kParts[] = {
    {"vision", make<VisionPart>},
    {"connector", make<ConnectorPart>},
    {"language_lora", make<LanguagePart, true>},
    {"language_full", make<LanguagePart, false>},
    {"region", make<RegionPart>},
    {"model", make<WholePart>}};

}  // namespace

std::vector<std::string_view> part_names() {
  std::vector<std::string_view> names;
  for (const auto& [name, make] : kParts) names.push_back(name);
  return names;
}

std::unique_ptr<Part> make_part(std::string_view name, int64_t batch) {
  std::string names;
  for (const auto& [known, make] : kParts) {
    if (known == name) return make(batch);
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  throw ConfigError(cat("no part '", name, "'; there are ", names));
}

}  // namespace tpo
