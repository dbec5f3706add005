#pragma once
// Layers with frozen bases, adapters, norms and biases, and heads of groups of their own: what sharding has to get
// right, in a few hundred numbers. And a rank that trains it.
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "core/rng.h"
#include "parallel/sharding/bucket_sync.h"
#include "tests/parallel/toy_model.h"

namespace tpo {

enum class Rerun { kNone, kSelective, kFull };

class LayeredModel {
 public:
  static constexpr int64_t kRows = 3, kWidth = 20, kRank = 3;
  static constexpr int kLayers = 4;

  LayeredModel(ParamStore& store, int heads, Rerun recompute = Rerun::kNone, const std::string& frozen = "*.base")
      : recompute_(recompute), table_(store.create("trunk.table", {7, kWidth}, Init::normal(0, 1), 0)) {
    for (int i = 0; i < kLayers; ++i) {
      const std::string at = "trunk.layers." + std::to_string(i) + ".";
      const auto matrix = [&](const char* name, int64_t rows, int64_t cols) {
        return &store.create(at + name, {rows, cols}, Init::normal(0, 0.2f), 0);
      };
      Layer layer{matrix("base", kWidth, kWidth), matrix("down", kRank, kWidth), matrix("up", kWidth, kRank),
                  matrix("w", kWidth, kWidth), &store.create(at + "b", {kWidth}, Init::constant(0.1f), 0)};
      layer.up->lr_scale = 0.5f;
      layers_.push_back(layer);
    }
    for (int h = 0; h < heads; ++h) {
      const std::string name = "heads." + std::to_string(h);
      const int group = store.group(name);
      heads_.push_back({&store.create(name + ".w", {5, kWidth}, Init::normal(0, 0.3f), group),
                        &store.create(name + ".b", {5}, Init::constant(0), group)});
    }
    store.set_trainable(frozen, false);
  }

  // Bit h of the microbatch's heads: head h is used. Scaled so that the sum over the microbatches of a step is the
  // loss.
  Tensor loss(const ToyMicrobatch& mb, float scale_by) {
    std::vector<int32_t> ids;
    for (uint64_t i = 0; i < kRows; ++i) ids.push_back(static_cast<int32_t>(uniform_below(RngKey(mb.id), i, 7)));
    Tensor x = embedding(table_.use(), Tensor::from(ids, {kRows}));
    for (const Layer& layer : layers_) {
      const auto block = [&layer](std::span<const Tensor> in) {
        const Tensor main = linear(in[0], layer.base->use()), low = linear(in[0], layer.down->use());
        const Tensor h = add(main, linear(low, layer.up->use()));
        const Tensor w = layer.w->use(), b = layer.b->use();
        return linear(h, w, b, Activation::kSilu);
      };
      const std::vector<Tensor> in{x};
      x = recompute_ == Rerun::kNone
              ? block(in)
              : recompute_block(block, in, recompute_ == Rerun::kFull ? Keep::kNothing : Keep::kProducts);
    }
    Tensor total = sum_all(mul(x, x));
    for (size_t h = 0; h < heads_.size(); ++h) {
      if (!((mb.heads >> h) & 1)) continue;
      const Tensor w = heads_[h].w->use(), b = heads_[h].b->use();
      const Tensor z = linear(x, w, b);
      total = add(total, sum_all(mul(z, z)));
    }
    return scale(total, scale_by);
  }

 private:
  struct Layer {
    Param *base, *down, *up, *w, *b;
  };
  struct Head {
    Param *w, *b;
  };
  Rerun recompute_;
  Param& table_;
  std::vector<Layer> layers_;
  std::vector<Head> heads_;
};

using State = std::map<std::string, std::vector<float>>;

// A large eps: m / (sqrt(v) + eps) then does not magnify rounding where a gradient is almost zero.
inline const AdamWParams kZeroAdam{.lr = 0.01f, .eps = 1e-3f, .weight_decay = 0.1f};

struct ZeroRank {
  ZeroRank(const SyncGroups& groups, BucketOptions options, int heads = 2, Rerun recompute = Rerun::kNone,
           const std::string& frozen = "*.base")
      : model(store, heads, recompute, frozen),
        sync(store, groups, options),
        data(*groups.data),
        shard(*groups.shard) {}

  void backward(const ToyMicrobatch& mb, size_t microbatches) {
    sync.begin_microbatch();
    Tape tape;
    const TapeScope scope(tape);
    const Tensor loss = model.loss(mb, 1.0f / static_cast<float>(microbatches));
    sync.end_forward();
    if (any_wants_grad({loss})) tape.backward(loss);
  }
  // `owner[j]` runs microbatch j; a rank's microbatches run in order.
  static StepUse use_of(const std::vector<ToyMicrobatch>& mbs, const std::vector<int>& owner, int rank) {
    StepUse use;
    std::map<int, size_t> rounds;
    for (size_t j = 0; j < mbs.size(); ++j) {
      const size_t round = rounds[owner[j]]++;
      const uint64_t groups = 1 | uint64_t{mbs[j].heads} << 1;
      use.global.resize(std::max(use.global.size(), round + 1));
      use.global[round] |= groups;
      if (owner[j] == rank) use.local.push_back(groups);
    }
    return use;
  }
  void grads(const std::vector<ToyMicrobatch>& mbs, const std::vector<int>& owner) {
    sync.begin_step(use_of(mbs, owner, data.rank()));
    for (size_t j = 0; j < mbs.size(); ++j) {
      if (owner[j] == data.rank()) backward(mbs[j], mbs.size());
    }
    sync.finish_grads(Stream::current());
  }
  void step(const std::vector<ToyMicrobatch>& mbs, const std::vector<int>& owner, double max_norm = 1) {
    grads(mbs, owner);
    sync.clip(max_norm);
    sync.step(kZeroAdam);
  }
  // Values and moments, whole: every rank's pieces put together. Collective over shard.
  State state() {
    State out;
    sync.for_each_state([&](const StateEntry& e) {
      auto& whole = out[e.name];
      whole.resize(static_cast<size_t>(e.param->full.numel()), std::nanf(""));
      const auto piece = e.value.to_vector<float>();
      std::copy(piece.begin(), piece.end(), whole.begin() + e.begin);
    });
    std::vector<float> mine;
    for (const auto& [name, whole] : out) mine.insert(mine.end(), whole.begin(), whole.end());
    for (const auto& bytes : shard.all_gather_bytes(std::as_bytes(std::span(mine)), "state")) {
      const auto* theirs = reinterpret_cast<const float*>(bytes.data());
      for (auto& [name, whole] : out) {
        for (float& v : whole) v = std::isnan(v) ? *theirs : v, ++theirs;
      }
    }
    return out;
  }

  ParamStore store{7};
  LayeredModel model;
  BucketSync sync;
  ProcessGroup &data, &shard;
};

// One rank that runs every microbatch.
struct OneRank {
  explicit OneRank(int heads = 2, BucketOptions options = {.bucket_bytes = 4096})
      : rank({*single, *single, *single, *single}, options, heads) {}
  void step(const std::vector<ToyMicrobatch>& mbs, double max_norm = 1) {
    rank.step(mbs, std::vector<int>(mbs.size(), 0), max_norm);
  }
  std::unique_ptr<ProcessGroup> single = make_single();
  ZeroRank rank;
};

// max|a - b| / max|b|
inline double difference(std::span<const float> a, std::span<const float> b) {
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < b.size(); ++i) {
    worst = std::max(worst, static_cast<double>(std::fabs(a[i] - b[i])));
    largest = std::max(largest, static_cast<double>(std::fabs(b[i])));
    if (std::isnan(a[i]) != std::isnan(b[i])) return 1e30;
  }
  return worst / largest;
}

}  // namespace tpo
