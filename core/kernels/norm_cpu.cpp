// Norms, forward and backward. Backward makes one pass over x and dy: a thread takes blocks of rows, and while a row is
// in the first-level cache it forms dx and adds to the block's line of the column sums. A row stored as bf16 is widened
// into scratch first, since it is read several times.
#include <cmath>
#include <vector>

#include "core/kernels/norm.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr int64_t kGrain = 16;  // blocks of kLoopBlock elements a thread gets at least

// Scratch rows of one thread; none are touched when storage is fp32.
template <class T, int kRows>
class RowScratch {
 public:
  explicit RowScratch(int64_t cols) : cols_(cols), memory_(std::is_same_v<T, float> ? 0 : kRows * cols) {}
  float* row(int i) { return memory_.data() + i * cols_; }

 private:
  int64_t cols_;
  std::vector<float> memory_;
};

// out[c] (+)= sum_b partial[b, c], in order of b.
void combine(const float* partial, int64_t blocks, int64_t cols, float* out, bool accumulate) {
  parallel_for(cols, row_grain(blocks, kGrain), [&](int64_t begin, int64_t end) {
    for (int64_t b = 0; b < blocks; ++b) {
      const float* line = partial + b * cols;
      if (b == 0 && !accumulate) {
#pragma omp simd
        for (int64_t c = begin; c < end; ++c) out[c] = line[c];
      } else {
#pragma omp simd
        for (int64_t c = begin; c < end; ++c) out[c] += line[c];
      }
    }
  });
}

// Calls body(block, begin, end) for every fixed block of rows.
template <class Body>
void for_row_blocks(int64_t rows, int64_t cols, const Body& body) {
  const int64_t blocks = norm_row_blocks(rows), per = rows / blocks + 1;
  parallel_for(blocks, row_grain(per * cols, kGrain), [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) body(b, rows * b / blocks, rows * (b + 1) / blocks);
  });
}

struct RowStats {
  float mean = 0, rstd = 0;
};

RowStats statistics(const float* x, int64_t cols, NormKind kind, float eps) {
  const auto n = static_cast<float>(cols);
  float sum = 0, squares = 0;
  if (kind == NormKind::kLayer) {
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < cols; ++c) sum += x[c];
  }
  const float mean = sum / n;
  // A second pass over the cached row: E[x^2] - mean^2 would cancel when |mean| is large.
#pragma omp simd reduction(+ : squares)
  for (int64_t c = 0; c < cols; ++c) squares += (x[c] - mean) * (x[c] - mean);
  return {mean, 1.0f / std::sqrt(squares / n + eps)};
}

// sum = x + residual, as stored; returns the sum in fp32.
template <class T>
const float* add_residual(const T* x, const T* residual, T* sum, float* scratch, int64_t cols) {
#pragma omp simd
  for (int64_t c = 0; c < cols; ++c) sum[c] = narrow<T>(widen(x[c]) + widen(residual[c]));
  return read_row(sum, scratch, cols);
}

template <class T>
void forward(const NormFwd& k) {
  parallel_for(k.rows, row_grain(k.cols, kGrain), [&](int64_t begin, int64_t end) {
    const T *gain = static_cast<const T*>(k.gain), *bias = static_cast<const T*>(k.bias);
    RowScratch<T, 1> scratch(k.cols);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = r * k.cols;
      const T* stored = static_cast<const T*>(k.x) + at;
      const float* x = k.residual == nullptr ? read_row(stored, scratch.row(0), k.cols)
                                             : add_residual(stored, static_cast<const T*>(k.residual) + at,
                                                            static_cast<T*>(k.sum) + at, scratch.row(0), k.cols);
      T* y = static_cast<T*>(k.y) + at;
      const RowStats stats = statistics(x, k.cols, k.kind, k.eps);
      const float mean = stats.mean, rstd = stats.rstd;
      k.rstd[r] = rstd;
      if (k.kind == NormKind::kRms) {
#pragma omp simd
        for (int64_t c = 0; c < k.cols; ++c) y[c] = narrow<T>(widen(gain[c]) * (x[c] * rstd));
      } else {
        k.mean[r] = mean;
#pragma omp simd
        for (int64_t c = 0; c < k.cols; ++c) y[c] = narrow<T>(widen(gain[c]) * ((x[c] - mean) * rstd) + widen(bias[c]));
      }
    }
  });
}

// One row: g = gain dy; dx = rstd (g - shift - (x - mean) pull) + dsum, with shift = mean_c(g) and
// pull = mean_c(g h) rstd = rstd^2 mean_c(g (x - mean)).
template <class T>
void backward_row(const NormBwd& k, int64_t r, const float* x, const float* gain, float* dg, float* db) {
  const int64_t cols = k.cols, at = r * cols;
  const T *dy = static_cast<const T*>(k.dy) + at, *dsum = static_cast<const T*>(k.dsum);
  T* dx = static_cast<T*>(k.dx) + at;
  const bool layer = k.kind == NormKind::kLayer;
  const float rstd = k.rstd[r], mean = layer ? k.mean[r] : 0.0f, inverse = 1.0f / static_cast<float>(cols);
  float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (int64_t c = 0; c < cols; ++c) {
    const float g = gain[c] * widen(dy[c]);
    sum += g;
    dot += g * (x[c] - mean);
  }
  const float shift = layer ? sum * inverse : 0.0f, pull = dot * rstd * rstd * inverse;
  if (dg != nullptr) {  // before dx, which may overwrite dy
#pragma omp simd
    for (int64_t c = 0; c < cols; ++c) dg[c] += widen(dy[c]) * (x[c] - mean) * rstd;
  }
  if (db != nullptr) {
#pragma omp simd
    for (int64_t c = 0; c < cols; ++c) db[c] += widen(dy[c]);
  }
  if (dsum == nullptr) {
#pragma omp simd
    for (int64_t c = 0; c < cols; ++c)
      dx[c] = narrow<T>(rstd * (gain[c] * widen(dy[c]) - shift - (x[c] - mean) * pull));
  } else {
    dsum += at;
#pragma omp simd
    for (int64_t c = 0; c < cols; ++c)
      dx[c] = narrow<T>(rstd * (gain[c] * widen(dy[c]) - shift - (x[c] - mean) * pull) + widen(dsum[c]));
  }
}

template <class T>
void backward(const NormBwd& k) {
  const int64_t blocks = norm_row_blocks(k.rows);
  float* biases = k.dbias == nullptr ? nullptr : k.partial + blocks * k.cols;
  for_row_blocks(k.rows, k.cols, [&](int64_t block, int64_t begin, int64_t end) {
    float* dg = k.dgain == nullptr ? nullptr : k.partial + block * k.cols;
    float* db = k.dbias == nullptr ? nullptr : biases + block * k.cols;
    if (dg != nullptr) std::fill_n(dg, k.cols, 0.0f);
    if (db != nullptr) std::fill_n(db, k.cols, 0.0f);
    RowScratch<T, 2> scratch(k.cols);
    const float* gain = read_row(static_cast<const T*>(k.gain), scratch.row(0), k.cols);
    for (int64_t r = begin; r < end; ++r)
      backward_row<T>(k, r, read_row(static_cast<const T*>(k.x) + r * k.cols, scratch.row(1), k.cols), gain, dg, db);
  });
  if (k.dgain != nullptr) combine(k.partial, blocks, k.cols, k.dgain, k.accumulate_gain);
  if (k.dbias != nullptr) combine(biases, blocks, k.cols, k.dbias, k.accumulate_bias);
}

}  // namespace

void run(const NormFwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() { forward<T>(k); });
}

void run(const NormBwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() { backward<T>(k); });
}

}  // namespace tpo
