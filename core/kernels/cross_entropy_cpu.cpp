// Cross-entropy over chunks of rows that have a target. A chunk's logits are overwritten by their gradient and feed the
// products for dx and dw while they are in cache. Losses are summed in the order of rows, in double.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/kernels/cross_entropy.h"
#include "core/kernels/gemm.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/simd.h"

namespace tpo {

namespace {

using simd::F8;

// Replaces logits by scale * (softmax - onehot) if `gradient`; returns -log softmax[target].
float softmax_row(float* logits, int64_t v, int64_t target, float scale, bool gradient) {
  const float picked = logits[target];
  const int64_t body = v / 8 * 8;
  F8 m(logits[0]);
  for (int64_t j = 0; j < body; j += 8) m = max(m, F8::load(logits + j));
  float top = simd::hmax(m);
  for (int64_t j = body; j < v; ++j) top = std::max(top, logits[j]);
  F8 sums = F8::zero();
  for (int64_t j = 0; j < body; j += 8) {
    const F8 e = simd::exp(F8::load(logits + j) - F8(top));
    sums += e;
    if (gradient) e.store(logits + j);
  }
  float sum = simd::hsum(sums);
  for (int64_t j = body; j < v; ++j) {
    const float e = std::exp(logits[j] - top);
    sum += e;
    if (gradient) logits[j] = e;
  }
  if (gradient) {
    const float f = scale / sum;
#pragma omp simd
    for (int64_t j = 0; j < v; ++j) logits[j] *= f;
    logits[target] -= scale;
  }
  return top + std::log(sum) - picked;
}

// A chunk's rows of one operand: in place when they are consecutive, else gathered into scratch.
struct Rows {
  const int32_t* index;  // (count) rows of the operand, rising
  int64_t count;
  bool consecutive() const { return index[count - 1] - index[0] == count - 1; }

  const float* gather(const float* from, int64_t cols, float* scratch) const {
    if (consecutive()) return from + index[0] * cols;
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(scratch + i * cols, from + index[i] * cols, static_cast<size_t>(cols) * sizeof(float));
    return scratch;
  }
  // Where a product may write these rows, and the copy back if that was scratch.
  float* target(float* to, int64_t cols, float* scratch) const {
    return consecutive() ? to + index[0] * cols : scratch;
  }
  void scatter(const float* from, float* to, int64_t cols) const {
    if (consecutive()) return;
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(to + index[i] * cols, from + i * cols, static_cast<size_t>(cols) * sizeof(float));
  }
};

// Products with one operand pair: (x, w, c) or (xa, b, r).
struct Operand {
  const float *x, *w;
  float *dx, *dw;
  int64_t cols;
  float* gathered;  // (chunk, cols)
  float* dgathered;
};

void chunk_logits(const Operand& o, const Rows& rows, float* logits, int64_t v, bool add, Stream& stream) {
  const float* x = rows.gather(o.x, o.cols, o.gathered);
  run(Gemm{x, o.w, logits, rows.count, v, o.cols, false, true, 1.0f, add ? 1.0f : 0.0f}, Cpu{}, stream);
}

void chunk_gradients(const Operand& o, const Rows& rows, const float* dlogits, int64_t v, bool first, Stream& stream) {
  if (o.dx != nullptr) {
    float* dx = rows.target(o.dx, o.cols, o.dgathered);
    run(Gemm{dlogits, o.w, dx, rows.count, o.cols, v, false, false}, Cpu{}, stream);
    rows.scatter(dx, o.dx, o.cols);
  }
  if (o.dw != nullptr) {
    const float* x = rows.consecutive() ? o.x + rows.index[0] * o.cols : o.gathered;
    run(Gemm{dlogits, x, o.dw, v, o.cols, rows.count, true, false, 1.0f, first ? 0.0f : 1.0f}, Cpu{}, stream);
  }
}

void zero(float* p, int64_t n) {
  if (p != nullptr) std::fill(p, p + n, 0.0f);
}

}  // namespace

void run(const VocabCrossEntropy& k, Cpu, Stream& stream) {
  std::vector<int32_t> valid;
  for (int64_t i = 0; i < k.n; ++i)
    if (k.targets[i] >= 0) valid.push_back(static_cast<int32_t>(i));
  const auto count = static_cast<int64_t>(valid.size());
  if (count < k.n) zero(k.dx, k.n * k.c), zero(k.dxa, k.n * k.r);
  if (count == 0) zero(k.dw, k.v * k.c), zero(k.db, k.v * k.r);

  float* logits = k.scratch;  // (chunk, v)
  float* gathered = logits + k.chunk * k.v;
  const Operand main{k.x, k.w, k.dx, k.dw, k.c, gathered, gathered + k.chunk * k.c};
  float* low_gathered = gathered + 2 * k.chunk * k.c;
  const Operand low{k.xa, k.b, k.dxa, k.db, k.r, low_gathered, low_gathered + k.chunk * k.r};
  float* losses = low_gathered + 2 * k.chunk * k.r;  // (chunk)
  const bool gradient = k.dx || k.dw || k.dxa || k.db;

  double total = 0;
  for (int64_t begin = 0; begin < count; begin += k.chunk) {
    const Rows rows{valid.data() + begin, std::min(k.chunk, count - begin)};
    chunk_logits(main, rows, logits, k.v, false, stream);
    if (k.r > 0) chunk_logits(low, rows, logits, k.v, true, stream);
    parallel_for(rows.count, row_grain(k.v, kHeavyGrain), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        losses[i] = softmax_row(logits + i * k.v, k.v, k.targets[rows.index[i]], k.scale, gradient);
    });
    for (int64_t i = 0; i < rows.count; ++i) total += losses[i];
    chunk_gradients(main, rows, logits, k.v, begin == 0, stream);
    if (k.r > 0) chunk_gradients(low, rows, logits, k.v, begin == 0, stream);
  }
  k.loss[0] = static_cast<float>(k.scale * total);
}

void run(const ScaleByScalar& k, Cpu, Stream&) {
  for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) {
    const float* x = k.x;
    float *y = k.y, s = k.s[0];
    if (k.accumulate) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) y[i] += s * x[i];
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) y[i] = s * x[i];
    }
  });
}

}  // namespace tpo
