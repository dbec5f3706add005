#pragma once
// A trunk with a table, a frozen layer and three heads that microbatches use or do not use: the smallest model with
// everything that decides who reduces what.
#include <array>
#include <bit>
#include <vector>

#include "core/ops/embedding.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "core/param.h"
#include "parallel/sharding/param_sync.h"

namespace tpo {

// Microbatch `id` decides the data; bit h of `heads` says whether head h is used.
struct ToyMicrobatch {
  uint64_t id = 0;
  unsigned heads = 0;
};

class ToyModel {
 public:
  static constexpr int kHeads = 3;
  static constexpr int64_t kRows = 5, kIn = 8, kHidden = 16, kTable = 12, kFrozenFrom = 9;

  explicit ToyModel(ParamStore& store)
      : table_(store.create("table", {kTable, kIn}, Init::normal(0, 1), 0)),
        base_(store.create("base", {kHidden, kIn}, Init::normal(0, 0.3f), 0)),
        w0_(store.create("w0", {kHidden, kIn}, Init::normal(0, 0.3f), 0)),
        b0_(store.create("b0", {kHidden}, Init::constant(0.1f), 0)),
        w1_(store.create("w1", {kHidden, kHidden}, Init::normal(0, 0.3f), 0)) {
    table_.frozen_rows_begin = kFrozenFrom;
    base_.trainable = false;
    w1_.lr_scale = 0.5f;
    for (int h = 0; h < kHeads; ++h) {
      const std::string name = "head" + std::to_string(h);
      const int group = store.group(name);
      head_w_.push_back(&store.create(name + ".weight", {4, kHidden}, Init::normal(0, 0.3f), group));
      head_b_.push_back(&store.create(name + ".bias", {4}, Init::constant(0), group));
    }
  }

  // Scaled so that the sum over all microbatches of a step is the loss.
  Tensor loss(const ToyMicrobatch& mb, float scale_by) {
    std::vector<int32_t> ids;
    for (uint64_t i = 0; i < kRows; ++i) ids.push_back(static_cast<int32_t>(uniform_below(RngKey(mb.id), i, kTable)));
    const Tensor x = embedding(table_.use(), Tensor::from(ids, {kRows}));
    const Tensor h = add(linear(x, w0_.use(), b0_.use(), Activation::kSilu), linear(x, base_.use()));
    const Tensor y = linear(h, w1_.use());
    Tensor total = sum_all(mul(y, y));
    for (unsigned k = 0; k < kHeads; ++k) {
      if (!((mb.heads >> k) & 1)) continue;
      const Tensor z = linear(y, head_w_[k]->use(), head_b_[k]->use());
      total = add(total, sum_all(mul(z, z)));
    }
    return scale(total, scale_by);
  }

 private:
  Param &table_, &base_, &w0_, &b0_, &w1_;
  std::vector<Param*> head_w_, head_b_;
};

// What the plan says for `rank` of `size` when microbatch j goes to rank j % size.
inline StepUse toy_use(const std::vector<ToyMicrobatch>& mbs, int rank, int size) {
  StepUse use;
  for (size_t j = 0; j < mbs.size(); ++j) {
    const uint64_t groups = 1 | uint64_t{mbs[j].heads} << 1;
    const size_t round = j / static_cast<size_t>(size);
    use.global.resize(round + 1);
    use.global[round] |= groups;
    if (static_cast<int>(j) % size == rank) use.local.push_back(groups);
  }
  return use;
}

inline void toy_backward(ToyModel& model, ParamSync& sync, const ToyMicrobatch& mb, size_t microbatches) {
  sync.begin_microbatch();
  Tape tape;
  TapeScope scope(tape);
  const Tensor loss = model.loss(mb, 1.0f / static_cast<float>(microbatches));
  sync.end_forward();
  tape.backward(loss);
}

// Forward, backward and reduction of one step.
inline void toy_grads(ToyModel& model, ParamSync& sync, const std::vector<ToyMicrobatch>& mbs, int rank, int size) {
  sync.begin_step(toy_use(mbs, rank, size));
  for (size_t j = 0; j < mbs.size(); ++j) {
    if (static_cast<int>(j) % size == rank) toy_backward(model, sync, mbs[j], mbs.size());
  }
  sync.finish_grads(Stream::current());
}

}  // namespace tpo
