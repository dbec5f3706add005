// Separable resampling: a row of y is mixed from rows of x ("tall"), then every pixel from pixels of that row ("wide").
// Pixels of few channels fill no vector: there eight rows go wide together. And where there are more rows after than
// before, rows of x go wide once, are kept in a ring while they are needed, and are mixed then.
#include <algorithm>
#include <vector>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/resample.h"
#include "core/kernels/simd.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr int64_t kFewChannels = 8;  // below this a pixel's channels do not fill a vector

size_t at(int64_t i) { return static_cast<size_t>(i); }

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
  b.weights.resize(at(b.size * b.width));
  for (int64_t o = 0; o < axis.out; ++o) {
    const ResampleRun r = resample_run(axis, o);
    b.first.push_back(r.first), b.count.push_back(r.count);
    for (int64_t t = 0; t < r.count; ++t)
      b.weights[at(o * b.width + t)] = static_cast<float>(resample_weight(axis, r, r.first + t));
  }
  return b;
}

// The adjoint: runs begin and end in order, so the outputs that read one input are a run too.
Band transposed(const Band& b, int64_t inputs) {
  Band a{inputs, 1, b.identity, {}, {}, {}};
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
#pragma GCC unroll 8
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
  if (terms == 8) return mix_few<8, false>(x, 0, w, y, n);  // bicubic with antialias at half the size
  constexpr int64_t kChunk = 1024;  // sums stay in the first cache, and rows are read by the page
  float sum[kChunk];
  for (int64_t from = 0; from < n; from += kChunk) {
    const int64_t length = std::min(kChunk, n - from);
    std::fill(sum, sum + length, 0.0f);
    int64_t t = 0;
    for (; t + 8 <= terms; t += 8) mix_few<8, true>(x + t, from, w + t, sum, length);
    for (; t + 4 <= terms; t += 4) mix_few<4, true>(x + t, from, w + t, sum, length);
    for (; t < terms; ++t) mix_few<1, true>(x + t, from, w + t, sum, length);
    convert(sum, y + from, length);
  }
}

struct Plan {
  Band h, w;
  int64_t channels;
  int64_t rows, row;  // of the source: count and elements
  bool wide_first;
  int64_t wide() const { return w.size * channels; }  // elements of a row of the result
};

Plan plan_of(const Resample& k) {
  Plan p{band_of(k.h), band_of(k.w), k.channels, k.h.in, k.w.in * k.channels, k.wide_first()};
  if (!k.adjoint) return p;
  p.h = transposed(p.h, k.h.in), p.w = transposed(p.w, k.w.in);
  p.rows = k.h.out, p.row = k.w.out * k.channels;
  return p;
}

// y (w.size, channels) from a row of the source, a pixel at a time.
template <class D>
void make_wide(const Plan& p, const float* row, D* y) {
  std::vector<const float*> x(at(p.w.width));
  for (int64_t d = 0; d < p.w.size; ++d) {
    for (int64_t t = 0; t < p.w.count[at(d)]; ++t) x[at(t)] = row + (p.w.first[at(d)] + t) * p.channels;
    mix(p.w.count[at(d)], x.data(), p.w.weight(d), y + d * p.channels, p.channels);
  }
}

// Eight rows of few channels at a time, turned so that a vector holds one element of each.
class EightRows {
 public:
  static constexpr int64_t kRows = 8;
  explicit EightRows(const Plan& p)
      : p_(p),
        row_(whole(p.row)),
        wide_(whole(p.wide())),
        source_(at(kRows * row_)),
        turned_(source_.size()),
        turned_wide_(at(kRows * wide_)),
        result_(turned_wide_.size()) {}

  float* source(int64_t i) { return source_.data() + i * row_; }
  const float* result(int64_t i) const { return result_.data() + i * wide_; }

  // Results of all eight sources; the caller leaves those alone that it did not fill.
  void make_wide() {
    for (int64_t j = 0; j < row_; j += kRows)
      simd::transpose8(source_.data() + j, row_, turned_.data() + j * kRows, kRows);
    const int64_t pixel = p_.channels * kRows;
    for (int64_t d = 0; d < p_.w.size; ++d) {
      const float* w = p_.w.weight(d);
      const float* first = turned_.data() + p_.w.first[at(d)] * pixel;
      for (int64_t c = 0; c < pixel; c += kRows) {
        simd::F8 sum = simd::F8::zero();
        for (int64_t t = 0; t < p_.w.count[at(d)]; ++t)
          sum = fma(simd::F8(w[t]), simd::F8::load(first + t * pixel + c), sum);
        sum.store(turned_wide_.data() + d * pixel + c);
      }
    }
    for (int64_t j = 0; j < wide_; j += kRows)
      simd::transpose8(turned_wide_.data() + j * kRows, kRows, result_.data() + j, wide_);
  }

 private:
  static int64_t whole(int64_t n) { return (n + kRows - 1) / kRows * kRows; }
  const Plan& p_;
  int64_t row_, wide_;  // elements of a row, rounded up to whole vectors
  std::vector<float> source_, turned_, turned_wide_, result_;
};

// Row r of all destination rows (image, row) as a mixture of rows of the source. `rows` is scratch.
template <class T, class D>
void mix_row(const Plan& p, const T* x, int64_t r, std::vector<const T*>& rows, D* y) {
  const int64_t d = r % p.h.size;
  const T* first = x + (r / p.h.size * p.rows + p.h.first[at(d)]) * p.row;
  for (int64_t t = 0; t < p.h.count[at(d)]; ++t) rows[at(t)] = first + t * p.row;
  mix(p.h.count[at(d)], rows.data(), p.h.weight(d), y, p.row);
}

template <class T, class To>
void tall_first(const Plan& p, const T* x, To* y, int64_t begin, int64_t end) {
  std::vector<float> mixed(at(p.row));
  std::vector<const T*> rows(at(p.h.width));
  for (int64_t r = begin; r < end; ++r) {
    To* to = y + r * p.wide();
    if (p.w.identity) {
      mix_row(p, x, r, rows, to);
      continue;
    }
    mix_row(p, x, r, rows, mixed.data());
    make_wide(p, mixed.data(), to);
  }
}

template <class T, class To>
void tall_first_few_channels(const Plan& p, const T* x, To* y, int64_t begin, int64_t end) {
  EightRows block(p);
  std::vector<const T*> rows(at(p.h.width));
  for (int64_t r = begin; r < end; r += EightRows::kRows) {
    const int64_t n = std::min(EightRows::kRows, end - r);
    for (int64_t i = 0; i < n; ++i) mix_row(p, x, r + i, rows, block.source(i));
    block.make_wide();
    for (int64_t i = 0; i < n; ++i) convert(block.result(i), y + (r + i) * p.wide(), p.wide());
  }
}

template <class T, class To>
void wide_first_few_channels(const Plan& p, const T* x, To* y, int64_t begin, int64_t end) {
  EightRows block(p);
  const int64_t wide = p.wide(), slots = p.h.width + EightRows::kRows - 1;
  std::vector<float> ring(at(slots * wide));
  std::vector<const float*> rows(at(p.h.width));
  int64_t made = 0;  // rows of the image below this were made wide or are no longer needed
  for (int64_t r = begin; r < end; ++r) {
    const int64_t d = r % p.h.size, first = p.h.first[at(d)], stop = first + p.h.count[at(d)];
    if (r == begin || d == 0) made = 0;
    for (made = std::max(made, first); made < stop;) {
      const int64_t n = std::min(EightRows::kRows, p.rows - made);
      const T* from = x + (r / p.h.size * p.rows + made) * p.row;
      for (int64_t i = 0; i < n; ++i) convert(from + i * p.row, block.source(i), p.row);
      block.make_wide();
      for (int64_t i = 0; i < n; ++i, ++made) std::copy_n(block.result(i), wide, ring.data() + made % slots * wide);
    }
    for (int64_t i = first; i < stop; ++i) rows[at(i - first)] = ring.data() + i % slots * wide;
    mix(stop - first, rows.data(), p.h.weight(d), y + r * wide, wide);
  }
}

}  // namespace

bool Resample::wide_first() const {
  return channels < kFewChannels && !w.identity() && (adjoint ? h.in > h.out : h.out > h.in);
}

Cost Resample::cost() const {
  const int64_t to_h = adjoint ? h.in : h.out, to_w = adjoint ? w.in : w.out;
  const int64_t from_h = adjoint ? h.out : h.in, from_w = adjoint ? w.out : w.in;
  // A sum of n products is n products and n - 1 additions; where there are fewer pairs than results, some are empty.
  const auto flops = [](const ResampleAxis& axis, int64_t to) {
    const int64_t pairs = axis.identity() ? 0 : resample_pairs(axis);
    return 2 * pairs - std::min(pairs, to);
  };
  const int64_t tall = flops(h, to_h) * (wide_first() ? to_w : from_w);
  const int64_t wide = flops(w, to_w) * (wide_first() ? from_h : to_h);
  return {images * channels * (tall + wide), width_of(dtype) * inputs(), width_of(out_dtype) * outputs()};
}

void run(const Resample& k, Cpu, Stream&) {
  if (k.outputs() == 0) return;
  const Plan p = plan_of(k);
  const auto rows = [&]<class T, class To>(const T* x, To* y) {
    parallel_for(k.images * p.h.size, row_grain(p.w.size * k.channels, kHeavyGrain), [&](int64_t begin, int64_t end) {
      if (p.wide_first) return wide_first_few_channels(p, x, y, begin, end);
      if (p.channels < kFewChannels && !p.w.identity) return tall_first_few_channels(p, x, y, begin, end);
      tall_first(p, x, y, begin, end);
    });
  };
  with_storage(k.dtype, [&]<class T>() {
    with_storage(k.out_dtype, [&]<class To>() { rows(static_cast<const T*>(k.x), static_cast<To*>(k.y)); });
  });
}

}  // namespace tpo
