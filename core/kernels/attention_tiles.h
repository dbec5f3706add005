#pragma once
// What the forward and backward CPU kernels of attention share: segments, causal limits, scratch memory.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "core/kernels/attention.h"
#include "core/kernels/gemm_tile.h"
#include "core/parallel_for.h"

namespace tpo::attention {

using simd::F8;
using tile::Left;

// One document: query rows [q0, q0 + lq), key rows [k0, k0 + lk).
struct Segment {
  int64_t q0, lq, k0, lk;
  // Keys that query i sees, out of the first `cap`: all, or up to the diagonal that joins the ends.
  int64_t keys(bool causal, int64_t i, int64_t cap) const {
    return causal ? std::clamp<int64_t>(i + (lk - lq) + 1, 0, cap) : cap;
  }
};

inline Segment segment(const AttentionShape& s, int64_t i) {
  Segment g{0, s.q_rows, 0, s.k_rows};
  if (s.cu_q != nullptr) g.q0 = s.cu_q[i], g.lq = s.cu_q[i + 1] - s.cu_q[i];
  if (s.cu_k != nullptr) g.k0 = s.cu_k[i], g.lk = s.cu_k[i + 1] - s.cu_k[i];
  return g;
}

// Aligned uninitialised floats handed out in order.
class Scratch {
 public:
  explicit Scratch(int64_t floats)
      : base_(static_cast<float*>(
            std::aligned_alloc(64, static_cast<size_t>(tile::round_up(floats, 16)) * sizeof(float)))),
        next_(base_.get()) {
    if (base_ == nullptr) throw std::bad_alloc();
  }
  float* take(int64_t floats) {
    float* p = next_;
    next_ += tile::round_up(floats, 16);
    return p;
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> base_;
  float* next_;
};

// Calls body(segment, kv head) for every pair; make_state(longest key count) is called once a thread. Heads are the
// outer index, so that threads share segments of every length.
template <class MakeState, class Body>
void for_segment_heads(const AttentionShape& s, const MakeState& make_state, const Body& body) {
  int64_t longest = 0;
  for (int64_t i = 0; i < s.segments; ++i) longest = std::max(longest, segment(s, i).lk);
  // Below about 50k multiplications a second thread does not pay.
  const int64_t work = std::max<int64_t>(1, s.scores() / std::max<int64_t>(1, s.segments * s.kv_heads)) * s.dim;
  parallel_for(s.segments * s.kv_heads, std::max<int64_t>(1, 50000 / work), [&](int64_t begin, int64_t end) {
    auto state = make_state(longest);
    for (int64_t i = begin; i < end; ++i) {
      const Segment g = segment(s, i % s.segments);
      if (g.lk > 0) body(state, g, i / s.segments);
    }
  });
}

}  // namespace tpo::attention
