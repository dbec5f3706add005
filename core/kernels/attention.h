#pragma once
// Attention by online softmax over tiles; no T x T matrix. Compute-bound at head widths from 32: two products forward,
// five backward (one of them recomputes the scores), and one exponential per score in each.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/rng.h"

namespace tpo {

class Stream;

// Head h of row r starts at element r * row + h * head of p, f32 or bf16: packed qkv, separate tensors and a cache
// differ in strides only.
struct HeadView {
  void* p = nullptr;
  int64_t row = 0;
  int64_t head = 0;
  DType dtype = DType::kF32;
  template <class T>
  T* at(int64_t r, int64_t h) const {
    return static_cast<T*>(p) + r * row + h * head;
  }
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
  int64_t q_size() const { return q_rows * q_heads * dim; }
  int64_t k_size() const { return k_rows * kv_heads * dim; }
};

// Rotary embedding on the way: rows of q and k are turned when they are read, their gradients back when written. Tables
// as of RopeTable, for all rows; null: that operand is not turned.
struct AttentionTurn {
  const float* q = nullptr;  // (q_rows, dim)
  const float* k = nullptr;  // (k_rows, dim)
  int64_t flops(const AttentionShape& s) const {
    return 3 * ((q != nullptr) * s.q_size() + (k != nullptr) * s.k_size());
  }
  int64_t bytes(const AttentionShape& s) const {
    return 4 * s.dim * ((q != nullptr) * s.q_rows + (k != nullptr) * s.k_rows);
  }
};

// What is added to the scaled scores; null pointers: nothing.
struct AttentionBiasView {
  const float* full = nullptr;  // (heads, q_rows, cols): column j is the j-th key of the row's segment
  int64_t heads = 0, cols = 0;  // heads is 1 (shared) or q_heads
  // Decomposed, both or neither: key (a, b) of a grid, a * grid_w + b of its segment, gets rel_h[a] + rel_w[b] of the
  // row and head.
  HeadView rel_h = {}, rel_w = {};
  int64_t grid_h = 0, grid_w = 0;
  bool any() const { return full != nullptr || rel_h.p != nullptr; }
  int64_t flops(const AttentionShape& s) const { return s.scores() * ((full != nullptr) + 2 * (rel_h.p != nullptr)); }
  int64_t full_bytes(const AttentionShape& s) const { return full == nullptr ? 0 : 4 * heads * s.q_rows * cols; }
  int64_t bytes(const AttentionShape& s) const {
    return full_bytes(s) + s.q_rows * s.q_heads * (grid_h + grid_w) * width_of(rel_h.dtype);
  }
};

// Their gradients, written; null pointers: not wanted.
struct AttentionBiasGrad {
  float* full = nullptr;
  HeadView rel_h = {}, rel_w = {};
  bool accumulate_full = false, accumulate_h = false, accumulate_w = false;
  bool any() const { return full != nullptr || rel_h.p != nullptr || rel_w.p != nullptr; }
};

// Dropout of probabilities: query row n of head h keeps the j-th key of its segment iff word j % 4 of
// philox(key.with(first_head + h), j / 4, row_ids[n]), as a number in [0, 1) of 24 bits, is >= p. Made again in
// backward.
struct AttentionDropView {
  const int64_t* row_ids = nullptr;  // (q_rows)
  RngKey key = {};
  float p = 0;  // 0 <= p < 1; 0: none
  int64_t first_head = 0;
  bool any() const { return p > 0; }
  int64_t flops(const AttentionShape& s) const { return any() ? 26 * s.scores() : 0; }
  int64_t bytes(const AttentionShape& s) const { return any() ? 8 * s.q_rows : 0; }
};

struct AttentionFwd {
  static constexpr const char* kName = "attention_fwd";
  AttentionShape s;
  HeadView q, k, v;
  HeadView out;  // written
  float* lse;    // (q_heads, q_rows) log2 of the sum of exponentials of a row's scaled scores; null: not wanted
  AttentionTurn turn = {};
  AttentionBiasView bias = {};
  AttentionDropView drop = {};
  Cost cost() const {
    const int64_t q_bytes = s.q_size() * width_of(q.dtype), k_bytes = s.k_size() * width_of(k.dtype);
    return {s.scores() * (4 * s.dim + 16) + turn.flops(s) + bias.flops(s) + drop.flops(s),
            q_bytes + 2 * k_bytes + turn.bytes(s) + bias.bytes(s) + drop.bytes(s),
            q_bytes + (lse == nullptr ? 0 : 4 * s.q_rows * s.q_heads)};
  }
};
void run(const AttentionFwd&, Cpu, Stream&);
void run(const AttentionFwd&, Cuda, Stream&);

struct AttentionBwd {
  static constexpr const char* kName = "attention_bwd";
  AttentionShape s;
  HeadView q, k, v, out, dout;
  const float* lse = nullptr;  // (q_heads, q_rows)
  HeadView dq = {};            // written; a null p: not wanted
  HeadView dk = {}, dv = {};   // written; both or neither
  bool accumulate_q = false, accumulate_k = false, accumulate_v = false;
  AttentionTurn turn = {};
  AttentionBiasView bias = {};
  AttentionBiasGrad dbias = {};
  AttentionDropView drop = {};
  // The gradient of a shared bias is summed over heads in a sweep of its own, which forms dS again.
  bool bias_sweep() const { return dbias.full != nullptr && bias.heads < s.q_heads; }
  bool main_sweep() const {
    return dq.p != nullptr || dk.p != nullptr || (dbias.any() && !bias_sweep()) || dbias.rel_h.p != nullptr ||
           dbias.rel_w.p != nullptr;
  }
  Cost cost() const {
    const int64_t q = s.q_size(), k = s.k_size(), w = width_of(this->q.dtype);
    const int64_t sweeps = main_sweep() + bias_sweep();
    const int64_t products = 2 * sweeps + (dq.p != nullptr) + 2 * (dk.p != nullptr);
    const int64_t grids =
        s.q_rows * s.q_heads * ((dbias.rel_h.p != nullptr) * bias.grid_h + (dbias.rel_w.p != nullptr) * bias.grid_w);
    return {s.scores() * (2 * products * s.dim + 20 * sweeps) + 2 * turn.flops(s) + 2 * bias.flops(s) +
                sweeps * (drop.flops(s) + drop.any() * s.scores()),
            w * (3 * q + 2 * k) + 4 * s.q_rows * s.q_heads + turn.bytes(s) + bias.bytes(s) + drop.bytes(s),
            (dq.p != nullptr) * q * width_of(dq.dtype) +
                (dk.p != nullptr) * k * (width_of(dk.dtype) + width_of(dv.dtype)) +
                (dbias.full != nullptr) * bias.full_bytes(s) + grids * width_of(bias.rel_h.dtype)};
  }
};
void run(const AttentionBwd&, Cpu, Stream&);
void run(const AttentionBwd&, Cuda, Stream&);

}  // namespace tpo
