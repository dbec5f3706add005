#include <cmath>

#include "core/kernels/attention_few.h"
#include "core/kernels/storage.h"

namespace tpo::attention {

namespace {

// sum_d a[d] b[d]
float dot(const float* a, const float* b, int64_t n) {
  Vec sum = Vec::zero();
  int64_t d = 0;
  for (; d + kLanes <= n; d += kLanes) sum = fma(Vec::load(a + d), Vec::load(b + d), sum);
  float rest = 0;
  for (; d < n; ++d) rest += a[d] * b[d];
  return hsum(sum) + rest;
}

// y[d] += a x[d]
void add_scaled(float a, const float* x, int64_t n, float* y) {
  int64_t d = 0;
  for (; d + kLanes <= n; d += kLanes) fma(Vec(a), Vec::load(x + d), Vec::load(y + d)).store(y + d);
  for (; d < n; ++d) y[d] += a * x[d];
}

// The first `seen` of s become probabilities, those up to `padded` zero; returns log2 of the sum of exponentials.
float softmax(float* s, int64_t seen, int64_t padded) {
  std::fill(s + seen, s + padded, -INFINITY);
  Vec top = Vec::load(s), sum = Vec::zero();
  for (int64_t j = kLanes; j < padded; j += kLanes) top = max(top, Vec::load(s + j));
  const float high = hmax(top);
  for (int64_t j = 0; j < padded; j += kLanes) {
    const Vec p = exp2(Vec::load(s + j) - Vec(high));
    sum += p;
    p.store(s + j);
  }
  const float total = hsum(sum);
  for (int64_t j = 0; j < padded; j += kLanes) (Vec::load(s + j) * Vec(1.0f / total)).store(s + j);
  return high + std::log2(total);
}

template <class T>
void forward(const AttentionFwd& k, const Segment& g, int64_t kv, int64_t head, int64_t heads) {
  const int64_t dim = k.s.dim, rows = g.lq * heads, wide = tile::round_up(dim, kPanel);
  const int64_t padded = tile::round_up(g.lk, kLanes);
  float *queries, *scores, *acc, *widened;
  scratch({{&queries, rows * wide}, {&scores, rows * padded}, {&acc, rows * wide}, {&widened, wide}});
  for (int64_t r = 0; r < rows; ++r)
    load_rows(k.q, k.turn.q, g.q0 + r % g.lq, 1, head + r / g.lq, dim, k.s.scale * kLog2e, queries + r * wide, 1);
  for (int64_t j = 0; j < g.lk; ++j) {
    const float* x = read_row(k.k.at<T>(g.k0 + j, kv), widened, dim);
    for (int64_t r = 0; r < rows; ++r) scores[r * padded + j] = dot(queries + r * wide, x, dim);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float lse = softmax(scores + r * padded, g.keys(r % g.lq), padded);
    if (k.lse != nullptr) k.lse[(head + r / g.lq) * k.s.q_rows + g.q0 + r % g.lq] = lse;
  }
  std::fill(acc, acc + rows * wide, 0.0f);
  for (int64_t j = 0; j < g.lk; ++j) {
    const float* x = read_row(k.v.at<T>(g.k0 + j, kv), widened, dim);
    for (int64_t r = 0; r < rows; ++r) add_scaled(scores[r * padded + j], x, dim, acc + r * wide);
  }
  for (int64_t r = 0; r < rows; ++r)
    store_rows(acc + r * wide, 1, 1.0f, k.out, nullptr, g.q0 + r % g.lq, 1, head + r / g.lq, dim, false);
}

}  // namespace

void forward_few(const AttentionFwd& k, const Segment& g, int64_t kv, int64_t head, int64_t heads) {
  with_storage(k.k.dtype, [&]<class T>() { forward<T>(k, g, kv, head, heads); });
}

}  // namespace tpo::attention
