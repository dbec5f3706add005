#pragma once
// The products of a training step run alone: what the step would take if nothing else existed.
#include <functional>
#include <vector>

#include "core/kernels/attention.h"
#include "core/kernels/gemm.h"
#include "core/tensor.h"

namespace tpo {

// The products that f() starts on this thread, in order.
std::vector<Gemm> record_gemms(const std::function<void()>& f);

// The recorded products on buffers of their own: every run of memory that the step touched has a twin of the same size,
// so that what was one buffer or two there is one or two here. Same kernel, same order, same threads.
class GemmReplay {
 public:
  explicit GemmReplay(std::vector<Gemm> recorded);
  void fill();         // random values; products that add to their result would grow from run to run
  double run() const;  // seconds
  size_t count() const { return gemms_.size(); }
  double flops() const;

 private:
  std::vector<Gemm> gemms_;
  std::vector<Tensor> buffers_;
};

// The products of `layers` attentions, forward (two) then backward (five), as a product per head and, if causal, per 64
// queries up to their last key. Heads are divided over threads; dk and dv of a key head are summed over its queries'
// heads. Buffers of their own for every layer.
class AttentionReplay {
 public:
  AttentionReplay(const AttentionShape& shape, int64_t layers);
  double run() const;  // seconds

 private:
  enum Operand { kQ, kK, kV, kOut, kDOut, kDQ, kDK, kDV, kOperands };
  float* at(int64_t layer, Operand o, int64_t segment, int64_t head) const;
  void head_forward(int64_t layer, int64_t segment, int64_t head, float* scores) const;
  void head_backward(int64_t layer, int64_t segment, int64_t head, float* scores, float* dscores) const;
  template <class F>
  void for_blocks(F f) const;
  template <class F>
  void for_heads(F f) const;

  AttentionShape s_;
  int64_t layers_, length_, block_;
  std::vector<Tensor> operands_;  // per layer kOperands, each (segments, heads, length, dim)
};

}  // namespace tpo
