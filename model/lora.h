#pragma once
// LoRA: a Linear with a low-rank term,  y = x w^T + bias + (alpha / rank) * drop(x) a^T b^T.
// Names: <scope>.lora_a (rank, in) and <scope>.lora_b (out, rank) beside <scope>.weight.
// a starts as U(-1/sqrt(in), 1/sqrt(in)) (what peft's kaiming_uniform with a = sqrt(5) gives), b as zero: the layer
// starts equal to its base. Source: Hu et al. 2021, arXiv:2106.09685.
// Over the tensor axis it follows its base: outputs cut, b is cut alike and a is whole; inputs cut, a is cut alike and
// b is whole, applied to this rank's share of x a^T before the one sum over ranks. The gradient of the whole one is
// summed over ranks. The mask of a cut input is that of the whole.
#include "model/linear.h"

namespace tpo {

struct LoraConfig {
  int64_t rank = 0;   // 0: no low-rank term, the layer is its base
  float alpha = 16;   // scale is alpha / rank
  float dropout = 0;  // on the input of the low-rank term, 0 <= p < 1
};

// What counter-based dropout needs to know of a microbatch. Undefined row_ids: no dropout (evaluation).
struct DropoutContext {
  RngKey key;      // differs per step
  Tensor row_ids;  // (N) i64, the same row of the same sample under every layout
};

class LoraLinear {
 public:
  LoraLinear(const ParamScope& scope, int64_t in, int64_t out, Split split, const TensorParallel& tp, Bias bias,
             const Init& init, const LoraConfig& lora, const Cut& cut = {});

  // x (N, in) -> (N, out), in the parts that Linear says.
  Tensor operator()(const Tensor& x, const DropoutContext& dropout) const;
  // (alpha / rank) * drop(x) a^T -> (N, rank): what multiplies b, for ops that fuse both products.
  // Undefined without an adapter or while merged. Not for inputs that are cut.
  Tensor low_rank(const Tensor& x, const DropoutContext& dropout) const;

  // Adds (alpha / rank) b a to the weight, or takes it off again. While merged the adapter is skipped and must not be
  // trained. merge of a merged layer, and unmerge of an unmerged one, do nothing. Equal up to rounding.
  void merge();
  void unmerge();
  bool merged() const { return merged_; }

  const Linear& base() const { return base_; }
  Param* lora_a() const { return a_ ? &a_->param() : nullptr; }  // null without an adapter
  Param* lora_b() const { return b_ ? &b_->param() : nullptr; }
  Tensor use_b() const { return b_->use(); }  // requires: lora_b()

 private:
  void add_to_weight(float factor);
  void make_adapter(const ParamScope& scope, int64_t rank, const TensorParallel& tp);
  Tensor hidden(const Tensor& x, const DropoutContext& dropout) const;  // drop(x) a^T

  Linear base_;
  std::optional<SummedParam> a_, b_;
  float scale_ = 0, dropout_ = 0;
  RngKey site_;  // from the layer's name: every layer draws its own mask
  bool merged_ = false;
};

}  // namespace tpo
