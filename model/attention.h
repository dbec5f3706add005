#pragma once
// Self-attention layers over packed sequences. N rows of all sequences, C width, S sequences. x is the stream
// (TensorParallel), `rows` the N of all of it; heads are cut over the tensor axis. Throws ConfigError that names the
// layer if there are fewer heads than ranks.
#include "core/ops/attention.h"
#include "model/lora.h"
#include "model/product_counter.h"

namespace tpo {

// How queries, keys and values are made.
enum class QkvProjection {
  // One matrix without bias, learnable biases of q and v only (that of k is fixed to 0, since it changes no softmax),
  // as
  // in UMT. Names: qkv.weight (3C, C), q_bias, v_bias.
  kFused,
  kSeparate,  // three layers with bias, as in SigLIP: q, k, v
};

// Bidirectional. Names: <scope>.proj and those of `projection`.
class VisionAttention {
 public:
  VisionAttention(const ParamScope& scope, int64_t width, int64_t heads, const TensorParallel& tp,
                  QkvProjection projection = QkvProjection::kFused);
  // x (N, C), cu (S+1) i32 -> (N, C).
  Tensor operator()(const Tensor& x_NC, int64_t rows, const Tensor& cu) const;

  // Counts the products; `pairs` of a row and a row that it sees.
  bool count(ProductCounter& counter, int64_t rows, int64_t pairs, Recompute recompute, bool wants) const;

 private:
  Param& bias(const ParamScope& scope, const char* name) const;

  TensorParallel tp_;
  AttentionSpec spec_;
  Cut heads_;               // columns of this rank's heads in each of q, k, v
  AttentionSpec local_;     // of this rank
  std::vector<Linear> in_;  // qkv, or q, k, v
  Linear proj_;
  Param *q_bias_ = nullptr, *v_bias_ = nullptr;  // kFused
};

// What a decoder layer must know of the rows: all of them, also where the stream is a shard.
struct SequenceContext {
  Tensor cu;         // (S+1) i32
  Tensor positions;  // (N) i32, from 0 in every sequence
  DropoutContext dropout;
  int64_t rows() const { return positions.numel(); }
};

// Keys and values of one sequence, or of several continuations of one prompt (CacheRows::mask), written in place,
// outside any tape. One entry per layer, (capacity, kv_heads*D) of this rank's heads.
struct KvCache {
  std::vector<Tensor> k, v;
  int64_t length = 0;  // rows valid in every layer
  int64_t capacity = 0;
};

// The rows that a step appends to a cache.
struct CacheRows {
  Tensor positions;  // (n) i32, their places in the sequence
  // (1, n, cache.length + n) f32: row i sees cache row j, new ones included, if element [0, i, j] is 0, and not if it
  // is minus infinity. Undefined: each sees all rows up to itself.
  Tensor mask;
};

struct CausalAttentionConfig {
  int64_t width = 0, heads = 0, kv_heads = 0, head_dim = 0;
  bool qkv_bias = false;
  float rope_theta = 1e4f;
  ProcessGroup* kv_sharers = nullptr;  // of split_kv_sharers; outlives the layer
};

// Collective: the ranks with the same key-value head, or null if no two have one (kv_heads >= ranks).
std::unique_ptr<ProcessGroup> split_kv_sharers(int64_t kv_heads, const TensorParallel& tp);

// Causal grouped-query attention with rotary positions; q, k and v may have biases (Qwen2), o has none. Names:
// <scope>.q, .k, .v, .o. With fewer key-value heads than ranks several ranks hold the same one, and the gradient of its
// weight and bias is summed over them.
class CausalAttention {
 public:
  struct Lora {
    LoraConfig q, k, v, o;
  };
  CausalAttention(const ParamScope& scope, const CausalAttentionConfig& config, const TensorParallel& tp,
                  const Init& init, const Lora& lora);
  // x (N, C) -> (N, C).
  Tensor operator()(const Tensor& x_NC, const SequenceContext& context) const;
  // x of n rows, positions.numel(). Writes rows [length, length + n) of layer `layer`; the caller advances cache.length
  // after the last layer. Never recorded. Throws ShapeError if the cache is full.
  Tensor step(const Tensor& x_nC, const CacheRows& rows, KvCache& cache, int layer) const;

  const LoraLinear& q() const { return q_; }
  const LoraLinear& k() const { return k_; }
  const LoraLinear& v() const { return v_; }
  const LoraLinear& o() const { return o_; }
  const AttentionSpec& spec() const { return spec_; }         // of the whole layer
  const AttentionSpec& local_spec() const { return local_; }  // of this rank
  template <class F>
  void for_each_lora(F f) {
    f(q_), f(k_), f(v_), f(o_);
  }

 private:
  CausalAttention(const ParamScope& scope, const CausalAttentionConfig& config, const TensorParallel& tp,
                  const Init& init, const Lora& lora, const HeadPart& part);

  TensorParallel tp_;
  AttentionSpec spec_, local_;
  float theta_;
  LoraLinear q_, k_, v_, o_;
};

}  // namespace tpo
