// Separable resampling. Two orders of the passes: a row of y is mixed from rows of x and then made wide ("tall first"),
// or rows of x are made wide once, kept in a ring while they are needed, and mixed ("wide first"). The second is for
// few channels and more rows after than before, where making a row wide is the expensive part: it reads single
// elements.
#include <algorithm>
#include <vector>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/resample.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr int64_t kFewChannels = 8;  // below this a pixel's channels do not fill a vector

// Weights of one axis: destination d is the sum over t < count[d] of weight(d)[t] source[first[d] + t].
struct Band {
  int64_t size, width;  // destinations; most weights of one
  bool identity;
  std::vector<int64_t> first, count;
  std::vector<float> weights;
  const float* weight(int64_t d) const { return weights.data() + d * width; }
};

Band band_of(const ResampleAxis& axis) {
  Band b{axis.out, 1, axis.identity(), {}, {}, {}};
  for (int64_t o = 0; o < axis.out; ++o) b.width = std::max(b.width, resample_run(axis, o).count);
  b.weights.resize(static_cast<size_t>(b.size * b.width));
  for (int64_t o = 0; o < axis.out; ++o) {
    const ResampleRun r = resample_run(axis, o);
    b.first.push_back(r.first), b.count.push_back(r.count);
    for (int64_t t = 0; t < r.count; ++t)
      b.weights[static_cast<size_t>(o * b.width + t)] = static_cast<float>(resample_weight(axis, r, r.first + t));
  }
  return b;
}

// The adjoint: runs begin and end in order, so the outputs that read one input are a run too.
Band transposed(const Band& b, int64_t inputs) {
  Band a{inputs, 1, b.identity, {}, {}, {}};
  const auto at = [](int64_t i) { return static_cast<size_t>(i); };
  int64_t begin = 0, end = 0;
  for (int64_t i = 0; i < inputs; ++i) {
    while (begin < b.size && b.first[at(begin)] + b.count[at(begin)] <= i) ++begin;
    while (end < b.size && b.first[at(end)] <= i) ++end;
    a.first.push_back(begin), a.count.push_back(std::max<int64_t>(0, end - begin));
    a.width = std::max(a.width, a.count.back());
  }
  a.weights.resize(at(a.size * a.width));
  for (int64_t i = 0; i < inputs; ++i)
    for (int64_t t = 0; t < a.count[at(i)]; ++t) {
      const int64_t o = a.first[at(i)] + t;
      a.weights[at(i * a.width + t)] = b.weight(o)[i - b.first[at(o)]];
    }
  return a;
}

// sum[j] += w[0] x[0][from + j] + .. + w[N-1] x[N-1][from + j], or = if N is all there is.
template <int N, bool kAdd, class S, class D>
void mix_few(const S* const* x, int64_t from, const float* w, D* sum, int64_t n) {
  const S* p[N];
  float v[N];
  for (int t = 0; t < N; ++t) p[t] = x[t] + from, v[t] = w[t];
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    float s = v[0] * widen(p[0][j]);
#pragma GCC unroll 4
    for (int t = 1; t < N; ++t) s += v[t] * widen(p[t][j]);
    if constexpr (kAdd) s += sum[j];
    sum[j] = narrow<D>(s);
  }
}

// y[j] = sum_t w[t] x[t][j] for j < n
template <class S, class D>
void mix(int64_t terms, const S* const* x, const float* w, D* y, int64_t n) {
  if (terms == 1) return mix_few<1, false>(x, 0, w, y, n);
  if (terms == 2) return mix_few<2, false>(x, 0, w, y, n);
  if (terms == 3) return mix_few<3, false>(x, 0, w, y, n);
  if (terms == 4) return mix_few<4, false>(x, 0, w, y, n);
  constexpr int64_t kChunk = 128;
  float sum[kChunk];
  for (int64_t from = 0; from < n; from += kChunk) {
    const int64_t length = std::min(kChunk, n - from);
    std::fill(sum, sum + length, 0.0f);
    int64_t t = 0;
    for (; t + 4 <= terms; t += 4) mix_few<4, true>(x + t, from, w + t, sum, length);
    for (; t < terms; ++t) mix_few<1, true>(x + t, from, w + t, sum, length);
    convert(sum, y + from, length);
  }
}

// The same weights per element of a row, term by term, for rows of few channels. Absent terms have weight 0 and read
// the element behind the row, which is 0.
struct Gather {
  std::vector<int32_t> at;
  std::vector<float> weight;
};

Gather gather_of(const Band& b, int64_t sources, int64_t channels) {
  Gather g;
  for (int64_t t = 0; t < b.width; ++t)
    for (int64_t d = 0; d < b.size; ++d)
      for (int64_t c = 0; c < channels; ++c) {
        const bool there = t < b.count[static_cast<size_t>(d)];
        const int64_t from = there ? (b.first[static_cast<size_t>(d)] + t) * channels + c : sources * channels;
        g.at.push_back(static_cast<int32_t>(from));
        g.weight.push_back(there ? b.weight(d)[t] : 0.0f);
      }
  return g;
}

struct Plan {
  Band h, w;
  Gather gather;  // empty unless few channels
  int64_t channels;
  int64_t rows, row;  // of the source: count and elements
  bool wide_first;
};

Plan plan_of(const Resample& k) {
  Plan p{band_of(k.h), band_of(k.w), {}, k.channels, k.h.in, k.w.in * k.channels, k.wide_first()};
  if (k.adjoint) {
    p.h = transposed(p.h, k.h.in), p.w = transposed(p.w, k.w.in);
    p.rows = k.h.out, p.row = k.w.out * k.channels;
  }
  if (k.channels < kFewChannels && !p.w.identity) p.gather = gather_of(p.w, p.row / k.channels, k.channels);
  return p;
}

// y (w.size, channels) from a row of the source, behind which stands one 0.
template <class D>
void widen_row(const Plan& p, const float* row, D* y) {
  if (p.gather.at.empty()) {
    std::vector<const float*> x(static_cast<size_t>(p.w.width));
    for (int64_t d = 0; d < p.w.size; ++d) {
      const int64_t count = p.w.count[static_cast<size_t>(d)];
      for (int64_t t = 0; t < count; ++t)
        x[static_cast<size_t>(t)] = row + (p.w.first[static_cast<size_t>(d)] + t) * p.channels;
      mix(count, x.data(), p.w.weight(d), y + d * p.channels, p.channels);
    }
    return;
  }
  constexpr int64_t kChunk = 128;
  float sum[kChunk];
  const int64_t n = p.w.size * p.channels;
  for (int64_t from = 0; from < n; from += kChunk) {
    const int64_t length = std::min(kChunk, n - from);
    for (int64_t t = 0; t < p.w.width; ++t) {
      const int32_t* at = p.gather.at.data() + t * n + from;
      const float* w = p.gather.weight.data() + t * n + from;
      if (t == 0) std::fill(sum, sum + length, 0.0f);
#pragma omp simd
      for (int64_t j = 0; j < length; ++j) sum[j] += w[j] * row[at[j]];
    }
    convert(sum, y + from, length);
  }
}

// Rows [begin, end) of all destination rows (image, row).
template <class T>
void tall_first(const Plan& p, const T* x, T* y, int64_t begin, int64_t end) {
  std::vector<float> mixed(static_cast<size_t>(p.row) + 1);  // the last one stays 0
  std::vector<const T*> rows(static_cast<size_t>(p.h.width));
  for (int64_t r = begin; r < end; ++r) {
    const int64_t d = r % p.h.size, count = p.h.count[static_cast<size_t>(d)];
    const T* image = x + r / p.h.size * p.rows * p.row;
    for (int64_t t = 0; t < count; ++t)
      rows[static_cast<size_t>(t)] = image + (p.h.first[static_cast<size_t>(d)] + t) * p.row;
    T* to = y + r * p.w.size * p.channels;
    if (p.w.identity) {
      mix(count, rows.data(), p.h.weight(d), to, p.row);
      continue;
    }
    if constexpr (std::is_same_v<T, float>) {
      if (p.h.identity && p.gather.at.empty()) {
        widen_row(p, rows[0], to);
        continue;
      }
    }
    mix(count, rows.data(), p.h.weight(d), mixed.data(), p.row);
    widen_row(p, mixed.data(), to);
  }
}

template <class T>
void wide_first(const Plan& p, const T* x, T* y, int64_t begin, int64_t end) {
  const int64_t wide = p.w.size * p.channels;
  std::vector<float> source(static_cast<size_t>(p.row) + 1);  // the last one stays 0
  std::vector<float> ring(static_cast<size_t>(p.h.width * wide));
  const auto slot = [&](int64_t row) { return ring.data() + row % p.h.width * wide; };
  std::vector<const float*> rows(static_cast<size_t>(p.h.width));
  int64_t made = 0;  // rows below this were made wide or are no longer needed
  for (int64_t r = begin; r < end; ++r) {
    const int64_t d = r % p.h.size, first = p.h.first[static_cast<size_t>(d)],
                  count = p.h.count[static_cast<size_t>(d)];
    if (r == begin || d == 0) made = 0;
    for (made = std::max(made, first); made < first + count; ++made) {
      convert(x + (r / p.h.size * p.rows + made) * p.row, source.data(), p.row);
      widen_row(p, source.data(), slot(made));
    }
    for (int64_t t = 0; t < count; ++t) rows[static_cast<size_t>(t)] = slot(first + t);
    mix(count, rows.data(), p.h.weight(d), y + r * wide, wide);
  }
}

}  // namespace

bool Resample::wide_first() const {
  return channels < kFewChannels && !w.identity() && (adjoint ? h.in > h.out : h.out > h.in);
}

Cost Resample::cost() const {
  const int64_t to_h = adjoint ? h.in : h.out, to_w = adjoint ? w.in : w.out;
  const int64_t from_h = adjoint ? h.out : h.in, from_w = adjoint ? w.out : w.in;
  // A sum of n products is n products and n - 1 additions.
  const int64_t tall = h.identity() ? 0 : (2 * resample_pairs(h) - to_h) * (wide_first() ? to_w : from_w);
  const int64_t wide = w.identity() ? 0 : (2 * resample_pairs(w) - to_w) * (wide_first() ? from_h : to_h);
  const int64_t width = width_of(dtype);
  return {images * channels * (tall + wide), width * inputs(), width * outputs()};
}

void run(const Resample& k, Cpu, Stream&) {
  if (k.outputs() == 0) return;
  const Plan p = plan_of(k);
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.images * p.h.size, row_grain(p.w.size * k.channels, kHeavyGrain), [&](int64_t begin, int64_t end) {
      const T* x = static_cast<const T*>(k.x);
      T* y = static_cast<T*>(k.y);
      p.wide_first ? wide_first(p, x, y, begin, end) : tall_first(p, x, y, begin, end);
    });
  });
}

}  // namespace tpo
