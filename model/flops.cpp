// Floating point operations of a microbatch by formula, part by part in the order of the forward pass. A product of
// (rows, in) with an (out, in) weight costs 2 * rows * in * out forward, as much again for the gradient of its input,
// if anything before it trains, and as much for that of its weight, if that trains.
#include <numeric>

#include "model/tpo_model.h"

namespace tpo {

namespace {

class FlopCounter final : public ProductCounter {
 public:
  explicit FlopCounter(Flops which) : executed_(which == Flops::kExecuted) {}
  int64_t total() const { return forward_ + backward_; }

  // Each returns whether its output wants a gradient, given whether its input does.
  bool product(int64_t rows, int64_t in, int64_t out, bool x_wants, bool w_trains) {
    const int64_t once = 2 * rows * in * out;
    forward_ += once;
    backward_ += once * (x_wants + w_trains);
    return x_wants || w_trains;
  }
  bool linear(const Linear& l, int64_t rows, bool x_wants) override {
    const bool wants = product(rows, l.in(), l.out(), x_wants, l.weight().trainable);
    return wants || (l.bias() != nullptr && l.bias()->trainable);
  }
  bool linear(const LoraLinear& l, int64_t rows, bool x_wants) {
    const bool wants = linear(l.base(), rows, x_wants);
    if (l.lora_a() == nullptr || l.merged()) return wants;
    const int64_t rank = l.lora_a()->full[0];
    const bool a_wants = product(rows, l.base().in(), rank, x_wants, l.lora_a()->trainable);
    return product(rows, rank, l.base().out(), a_wants, l.lora_b()->trainable) || wants;
  }
  // Two products of each (query, key) pair forward and four backward, five as executed since the scores are formed
  // again.
  bool attention(int64_t pairs, const AttentionSpec& spec, bool wants) override {
    const int64_t once = 2 * pairs * spec.q_heads * spec.head_dim;
    forward_ += 2 * once;
    if (wants) backward_ += (executed_ ? 5 : 4) * once;
    return wants;
  }
  bool attention(int64_t pairs, const AttentionSpec& spec, bool wants, const Linear& out, int64_t rows,
                 Recompute mode) override {
    return attention_then(pairs, spec, wants, out, rows, mode);
  }
  // Then the projection `out` of `rows`. Selective recompute runs the forward products of the pairs again.
  template <class Layer>
  bool attention_then(int64_t pairs, const AttentionSpec& spec, bool wants, const Layer& out, int64_t rows,
                      Recompute mode) {
    const int64_t once = 2 * pairs * spec.q_heads * spec.head_dim;
    wants = linear(out, rows, attention(pairs, spec, wants));
    if (executed_ && wants && mode == Recompute::kSelective) backward_ += 2 * once;
    return wants;
  }
  // Counts `block` and, if its gradient is formed from a second run, that run too.
  bool recomputed(Recompute mode, const std::function<bool()>& block) override {
    const int64_t before = forward_;
    const bool wants = block();
    if (executed_ && wants && mode == Recompute::kFull) backward_ += forward_ - before;
    return wants;
  }

 private:
  bool executed_;
  int64_t forward_ = 0, backward_ = 0;
};

bool count_decoder(FlopCounter& f, const Decoder& decoder, const MicrobatchSize& size, bool wants) {
  int64_t rows = 0, pairs = 0;
  for (const int64_t n : size.sequences) rows += n, pairs += n * (n + 1) / 2;
  for (const DecoderBlock& block : decoder.blocks()) {
    wants = f.recomputed(decoder.config().recompute, [&] {
      const CausalAttention& a = block.attention();
      const bool before = wants || block.attention_norm().trains();
      const bool q = f.linear(a.q(), rows, before), k = f.linear(a.k(), rows, before);
      const bool v = f.linear(a.v(), rows, before);
      const bool inner =
          f.attention_then(pairs, a.spec(), q || k || v, a.o(), rows, decoder.config().recompute) || wants;
      const bool normed = inner || block.mlp_norm().trains();
      const bool gate = f.linear(block.mlp().gate(), rows, normed), up = f.linear(block.mlp().up(), rows, normed);
      return f.linear(block.mlp().down(), rows, gate || up) || inner;
    });
  }
  return wants || decoder.norm().trains();
}

// Logits of labelled rows alone; what the adapter makes before is made of all rows (Decoder::loss).
void count_head(FlopCounter& f, const LoraLinear& head, const MicrobatchSize& size, bool wants) {
  f.linear(head.base(), size.loss_rows, wants);
  if (head.lora_a() == nullptr || head.merged()) return;
  const int64_t rank = head.lora_a()->full[0];
  const int64_t rows = std::accumulate(size.sequences.begin(), size.sequences.end(), int64_t{0});
  wants = f.product(rows, head.base().in(), rank, wants, head.lora_a()->trainable);
  f.product(size.loss_rows, rank, head.base().out(), wants, head.lora_b()->trainable);
}

}  // namespace

int64_t TpoModel::flops(const MicrobatchSize& size, Flops which) const {
  FlopCounter f(which);
  bool wants = !config_.language.detach_embeddings && language_.embedding().weight().trainable;
  if (size.media > 0) {
    const PatchGrid grid = vision_->grid(size.media, size.frames);
    wants = connector_->count(f, grid, size.connector_texts, vision_->count(f, grid)) || wants;
  }
  if (size.box_inputs > 0) {
    const bool hidden = f.linear(box_encoder_.fc1(), size.box_inputs, false);
    wants = f.linear(box_encoder_.fc2(), size.box_inputs, hidden) || wants;
  }
  if (size.regions > 0) wants = wants || tokens_[Task::kBox].trainable;
  wants = count_decoder(f, language_, size, wants);
  if (size.regions > 0) {
    const bool hidden = f.linear(region_.fc1(), size.regions, wants);
    f.linear(region_.fc2(), size.regions, hidden);
  }
  count_head(f, language_.lm_head(), size, wants);
  return f.total();
}

}  // namespace tpo
