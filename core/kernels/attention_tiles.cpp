#include "core/kernels/attention_tiles.h"

#include <cstdlib>
#include <memory>
#include <new>

#include "core/kernels/storage.h"
#include "core/parallel_for.h"

namespace tpo::attention {

Segment segment(const AttentionShape& s, int64_t i) {
  Segment g{0, s.q_rows, 0, s.k_rows, s.causal};
  if (s.cu_q != nullptr) g.q0 = s.cu_q[i], g.lq = s.cu_q[i + 1] - s.cu_q[i];
  if (s.cu_k != nullptr) g.k0 = s.cu_k[i], g.lk = s.cu_k[i + 1] - s.cu_k[i];
  return g;
}

Partition::Partition(const AttentionShape& s, int64_t side, int64_t kv_heads, int64_t repeat)
    : s_(s), side_(side), kv_heads_(kv_heads), repeat_(repeat) {
  for (int64_t i = 0; i < s.segments; ++i) {
    const Segment g = segment(s, i);
    longest_ = std::max(longest_, g.lk);
    int64_t cost = 0;
    for (int64_t q = 0; q < g.lq; q += side_) cost += tile_cost(g, q);
    cost_.push_back(cost);
    total_ += cost * kv_heads_ * repeat_;
  }
  // Below about 50k multiplications a second thread does not pay.
  threads_ = std::clamp<int64_t>(total_ * s.dim / 50000, 1, num_threads());
}

int64_t Partition::tile_cost(const Segment& g, int64_t i) const {
  const int64_t n = std::min(side_, g.lq - i);
  return n * g.keys(i + n - 1);
}

void Partition::cut(Piece& p, int64_t at, int64_t begin, int64_t end) const {
  p.begin = p.tiles, p.end = 0;
  for (int64_t u = 0; u < p.tiles; ++u) {
    const int64_t cost = tile_cost(p.g, u % p.per_head * side_), who = owner(at + cost / 2);
    at += cost;
    if (who >= begin && who < end) p.begin = std::min(p.begin, u), p.end = u + 1;
  }
}

std::vector<Piece> Partition::pieces(int64_t begin, int64_t end) const {
  std::vector<Piece> list;
  int64_t at = 0;
  for (int64_t pair = 0; pair < kv_heads_ * s_.segments; ++pair) {
    const int64_t i = pair % s_.segments, cost = cost_[static_cast<size_t>(i)] * repeat_;
    const int64_t first = owner(at), last = owner(at + cost);
    if (first >= end) break;
    if (last >= begin) {
      const Segment g = segment(s_, i);
      const int64_t per_head = (g.lq + side_ - 1) / side_;
      Piece p{g, pair, pair / s_.segments, 0, per_head * repeat_, per_head * repeat_, per_head};
      if (p.tiles > 0) cut(p, at, begin, end);
      if (p.tiles == 0 ? first >= begin && g.lk > 0 : p.begin < p.end) list.push_back(p);
    }
    at += cost;
  }
  return list;
}

namespace {

struct Free {
  void operator()(float* p) const { std::free(p); }
};
thread_local std::unique_ptr<float, Free> t_memory;
thread_local int64_t t_floats = 0;

// y = x turned by the angles of a RopeTable's row times `sign`; y may be x.
void turn_row(const float* table, int64_t dim, float sign, const float* x, float* y) {
  const int64_t half = dim / 2;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half], c = table[i], s = sign * table[i + half];
    y[i] = a * c - b * s;
    y[i + half] = b * c + a * s;
  }
}

// Rows of a head lie a row of all heads apart, which no prefetcher follows: they are asked for some rows ahead.
template <int kWrite, class T>
void prefetch_row(const HeadView& view, int64_t row, int64_t head, int64_t dim) {
  constexpr int64_t kAhead = 8, kLine = 64 / sizeof(T);
  for (int64_t d = 0; d < dim; d += kLine) __builtin_prefetch(view.at<T>(row + kAhead, head) + d, kWrite);
}

template <class T>
void load(const HeadView& from, const float* turn, int64_t row, int64_t n, int64_t head, int64_t dim, float factor,
          float* out, int64_t out_rows) {
  std::vector<float> scratch(static_cast<size_t>(dim));
  const Vec f(factor);
  for (int64_t r = 0; r < n; ++r) {
    prefetch_row<0, T>(from, row + r, head, dim);
    const float* x = read_row(from.at<T>(row + r, head), scratch.data(), dim);
    if (turn != nullptr) {
      turn_row(turn + (row + r) * dim, dim, 1, x, scratch.data());
      x = scratch.data();
    }
    for (int64_t d = 0; d < dim; d += kPanel) {
      float* o = out + d * out_rows + r * kPanel;
      const int64_t width = std::min(kPanel, dim - d);
      if (width == kPanel) {
        (Vec::load(x + d) * f).store(o);
        (Vec::load(x + d + kLanes) * f).store(o + kLanes);
      } else {
        for (int64_t c = 0; c < width; ++c) o[c] = x[d + c] * factor;
        std::fill(o + width, o + kPanel, 0.0f);
      }
    }
  }
}

template <class T>
void store(const float* from, int64_t from_rows, float factor, const HeadView& to, const float* turn, int64_t row,
           int64_t n, int64_t head, int64_t dim, bool accumulate) {
  std::vector<float> scratch(static_cast<size_t>(dim));
  float* x = scratch.data();
  for (int64_t r = 0; r < n; ++r) {
    prefetch_row<1, T>(to, row + r, head, dim);
    T* y = to.at<T>(row + r, head);
    for (int64_t d = 0; d < dim; d += kPanel)
      std::copy_n(from + d * from_rows + r * kPanel, std::min(kPanel, dim - d), x + d);
    if (turn != nullptr) turn_row(turn + (row + r) * dim, dim, -1, x, x);
    if (accumulate) {
#pragma omp simd
      for (int64_t d = 0; d < dim; ++d) y[d] = narrow<T>(widen(y[d]) + factor * x[d]);
    } else {
#pragma omp simd
      for (int64_t d = 0; d < dim; ++d) y[d] = narrow<T>(factor * x[d]);
    }
  }
}

}  // namespace

void scratch(std::initializer_list<std::pair<float**, int64_t>> parts) {
  int64_t total = 0;
  for (const auto& [p, floats] : parts) total += tile::round_up(floats, 16);
  if (total > t_floats) {
    t_memory.reset(), t_floats = 0;
    t_memory.reset(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(total) * sizeof(float))));
    if (t_memory == nullptr) throw std::bad_alloc();
    t_floats = total;
  }
  float* next = t_memory.get();
  for (const auto& [p, floats] : parts) *p = next, next += tile::round_up(floats, 16);
}

void load_rows(const HeadView& from, const float* turn, int64_t row, int64_t n, int64_t head, int64_t dim, float factor,
               float* out, int64_t out_rows) {
  with_storage(from.dtype, [&]<class T>() { load<T>(from, turn, row, n, head, dim, factor, out, out_rows); });
}

void store_rows(const float* from, int64_t from_rows, float factor, const HeadView& to, const float* turn, int64_t row,
                int64_t n, int64_t head, int64_t dim, bool accumulate) {
  with_storage(to.dtype,
               [&]<class T>() { store<T>(from, from_rows, factor, to, turn, row, n, head, dim, accumulate); });
}

void transpose_panel(const float* from, int64_t from_rows, int64_t n, int64_t dim, float* out) {
  for (int64_t d = 0; d < dim; d += 8) {
    const float* x = from + d / kPanel * from_rows * kPanel + d % kPanel;
    for (int64_t i = 0; i < kPanel; i += 8) {
      if (i + 8 <= n && d + 8 <= dim) {
        simd::transpose8(x + i * kPanel, kPanel, out + d * kPanel + i, kPanel);
        continue;
      }
      for (int64_t c = 0; c < std::min<int64_t>(8, dim - d); ++c)
        for (int64_t q = i; q < i + 8; ++q) out[(d + c) * kPanel + q] = q < n ? x[q * kPanel + c] : 0.0f;
    }
  }
}

void dot_rows(const HeadView& a, const HeadView& b, int64_t row, int64_t n, int64_t head, int64_t dim, float* sums) {
  with_storage(a.dtype, [&]<class T>() {
    for (int64_t i = 0; i < n; ++i) {
      const T *x = a.at<T>(row + i, head), *y = b.at<T>(row + i, head);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t d = 0; d < dim; ++d) sum += widen(x[d]) * widen(y[d]);
      sums[i] = sum;
    }
  });
}

}  // namespace tpo::attention
