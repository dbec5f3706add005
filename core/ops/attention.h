#pragma once
// Scaled dot-product attention over packed documents, by online softmax: no T x T matrix exists. Operands are f32 or
// bf16, all stored alike; scores, probabilities and sums are fp32.
// A segment is one document: rows [cu[s], cu[s+1]). Empty segments are allowed.
// Source: Dao et al. 2022, arXiv:2205.14135 (tiling, saved log-sum-exp, recomputation in backward).
#include "core/rng.h"
#include "core/tape.h"

namespace tpo {

struct AttentionSpec {
  int64_t q_heads = 1;   // >= 1
  int64_t kv_heads = 1;  // divides q_heads; query head h reads key head h / (q_heads / kv_heads)
  int64_t head_dim = 1;  // D, any value >= 1; fast at multiples of 16
  bool causal = false;   // aligns the ends: query i of a segment sees keys <= i + (lk - lq)
  float scale = 0;       // factor of the scores; 0: 1 / sqrt(D)
};

// Rotary embedding inside attention: rows of q and k are turned as rope(x, positions, heads, theta) would, while they
// are read, and gradients back while they are written. An undefined tensor: that operand is not turned. D even.
struct AttentionRope {
  Tensor q = {}, k = {};  // positions (Nq) and (Nk) i32; may be one tensor
  float theta = 1e4f;
};

// Added to the scaled scores before the softmax: a full bias, a decomposed one, or both; undefined: nothing.
// Minus infinity in `full` masks a key; a row that sees no key gives 0. Gradients of all are made where wanted; that of
// a shared `full` costs a second pass over the scores.
struct AttentionBias {
  Tensor full =
      {};  // (1 or q_heads, Nq, K) f32; column j is the j-th key of the row's segment, K at least their number
  // Relative positions on a grid of keys, as in ViTDet and SAM: key j = a * Kw + b of a segment gets rel_h[a] +
  // rel_w[b] of the row and head. Every segment that has queries has Kh * Kw keys. Stored as q is; both or neither.
  // Source: Li et al. 2022, arXiv:2203.16527, after arXiv:2112.01526.
  Tensor rel_h = {};  // (Nq, q_heads*Kh)
  Tensor rel_w = {};  // (Nq, q_heads*Kw)
};

// Dropout of probabilities: out = (P * M / (1 - p)) V with P the softmax over all keys that a row sees, and for query
// row n, query head h and the j-th key of the row's segment
//   M(n, h, j) = uniform01(word j % 4 of philox(key.with(first_head + h), j / 4, row_ids[n])) >= p
// a function of key, row id, head and key place only, as in core/ops/dropout.h: packing, tiles, threads and ranks do
// not change it. Saves row_ids alone: backward makes the mask again. p = 0 or undefined row_ids: no dropout.
struct AttentionDropout {
  float p = 0;  // 0 <= p < 1
  RngKey key = {};
  Tensor row_ids = {};     // (Nq) i64
  int64_t first_head = 0;  // of the operands within the whole, where heads are cut over ranks
  bool on() const { return p > 0 && row_ids.defined(); }
};

// q (Nq, q_heads*D), k and v (Nk, kv_heads*D), cu_q and cu_k (S+1) i32 rising from 0 to Nq and Nk -> (Nq, q_heads*D)
// Saves the operands, the output and one fp32 per row and head. Causal skips the tiles above the diagonal.
// Throws ShapeError for shapes and what dropout is given; DataError (host values only) for cumulative lengths that do
// not rise from 0 to the row count, for a segment with queries and no keys or other keys than its bias has and, if
// causal, for one with more queries than keys.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu_q, const Tensor& cu_k,
                 const AttentionSpec& spec, const AttentionRope& rope = {}, const AttentionBias& bias = {},
                 const AttentionDropout& dropout = {});

// The same on qkv (N, (q_heads + 2*kv_heads)*D), columns q | k | v, with one set of cumulative lengths (S+1).
Tensor attention_packed(const Tensor& qkv, const Tensor& cu, const AttentionSpec& spec, const AttentionRope& rope = {},
                        const AttentionBias& bias = {}, const AttentionDropout& dropout = {});

// Generation: out (Nq, q_heads*D) = attention of q against rows [0, len) of the caches (capacity, kv_heads*D), one
// sequence. Writes `out` in place and is never recorded. The cache holds turned keys: rope.k is undefined. Throws
// ShapeError if len is 0, exceeds the capacity or, if causal, is below Nq.
void attention_cached(const Tensor& q, const Tensor& cache_k, const Tensor& cache_v, int64_t len,
                      const AttentionSpec& spec, const Tensor& out, const AttentionRope& rope = {});

}  // namespace tpo
