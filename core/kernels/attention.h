#pragma once
// Attention by online softmax over tiles; no T x T matrix. Compute-bound at head widths from 32: two products forward,
// five backward (one of them recomputes the scores), and one exponential per score in each.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

// Head h of row r starts at p + r * row + h * head: packed qkv, separate tensors and a cache differ in strides only.
template <class T>
struct HeadView {
  T* p = nullptr;
  int64_t row = 0;
  int64_t head = 0;
  T* at(int64_t r, int64_t h) const { return p + r * row + h * head; }
};

// What forward and backward share. A null cu means one segment of all rows.
struct AttentionShape {
  const int32_t* cu_q = nullptr;  // (segments + 1)
  const int32_t* cu_k = nullptr;  // (segments + 1)
  int64_t segments = 1;
  int64_t q_rows = 0, k_rows = 0;
  int64_t q_heads = 1, kv_heads = 1, dim = 1;
  bool causal = false;
  float scale = 1;  // > 0

  // Scores of all heads, for segments of equal length: lengths are values, which meta does not have.
  int64_t scores() const {
    if (segments == 0) return 0;
    const int64_t lq = q_rows / segments, lk = k_rows / segments;
    return q_heads * segments * (causal ? lq * (lk - lq) + lq * (lq + 1) / 2 : lq * lk);
  }
};

struct AttentionFwd {
  static constexpr const char* kName = "attention_fwd";
  AttentionShape s;
  HeadView<const float> q, k, v;
  HeadView<float> out;
  float* lse;  // (q_heads, q_rows) log of the sum of exponentials of a row's scaled scores; null: not wanted
  Cost cost() const {
    const int64_t q_size = s.q_rows * s.q_heads * s.dim, k_size = s.k_rows * s.kv_heads * s.dim;
    return {s.scores() * (4 * s.dim + 16), 4 * (q_size + 2 * k_size), 4 * (q_size + s.q_rows * s.q_heads)};
  }
};
void run(const AttentionFwd&, Cpu, Stream&);
void run(const AttentionFwd&, Cuda, Stream&);

struct AttentionBwd {
  static constexpr const char* kName = "attention_bwd";
  AttentionShape s;
  HeadView<const float> q, k, v, out, dout;
  const float* lse;        // (q_heads, q_rows)
  HeadView<float> dq;      // a null p: not wanted
  HeadView<float> dk, dv;  // both or neither
  bool accumulate_q, accumulate_k, accumulate_v;
  Cost cost() const {
    const int64_t q_size = s.q_rows * s.q_heads * s.dim, k_size = s.k_rows * s.kv_heads * s.dim;
    return {s.scores() * (10 * s.dim + 20), 4 * (3 * q_size + 2 * k_size), 4 * (q_size + 2 * k_size)};
  }
};
void run(const AttentionBwd&, Cpu, Stream&);
void run(const AttentionBwd&, Cuda, Stream&);

}  // namespace tpo
