// Norms, forward and backward. Backward makes one pass over x and dy: a thread takes blocks of rows, and while a row is
// in the first-level cache it forms dx and adds to the block's line of the column sums.
#include <cmath>

#include "core/kernels/norm.h"
#include "core/kernels/pointwise_loop.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr int64_t kGrain = 16;  // blocks of kLoopBlock elements a thread gets at least

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

void rms_row_bwd(const RmsNormBwd& k, int64_t r, float* dg) {
  const int64_t cols = k.cols;
  const float *x = k.x + r * cols, *dy = k.dy + r * cols, *gain = k.gain;
  float* dx = k.dx + r * cols;
  const float rstd = k.rstd[r];
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t c = 0; c < cols; ++c) dot += gain[c] * dy[c] * x[c];
  const float pull = dot * rstd * rstd / static_cast<float>(cols);  // h mean(g h) = x rstd^2 mean(g x)
  if (dg == nullptr) {
#pragma omp simd
    for (int64_t c = 0; c < cols; ++c) dx[c] = rstd * (gain[c] * dy[c] - x[c] * pull);
  } else {
#pragma omp simd
    for (int64_t c = 0; c < cols; ++c) {
      const float d = dy[c], v = x[c];
      dx[c] = rstd * (gain[c] * d - v * pull);
      dg[c] += d * v * rstd;
    }
  }
}

void layer_row_bwd(const LayerNormBwd& k, int64_t r, float* dg, float* db) {
  const int64_t cols = k.cols;
  const float *x = k.x + r * cols, *dy = k.dy + r * cols, *gain = k.gain;
  float* dx = k.dx + r * cols;
  const float rstd = k.rstd[r], mean = k.mean[r], inverse = 1.0f / static_cast<float>(cols);
  float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (int64_t c = 0; c < cols; ++c) {
    const float g = gain[c] * dy[c];
    sum += g;
    dot += g * (x[c] - mean);
  }
  const float shift = sum * inverse, pull = dot * rstd * rstd * inverse;
  if (dg == nullptr) {
#pragma omp simd
    for (int64_t c = 0; c < cols; ++c) dx[c] = rstd * (gain[c] * dy[c] - shift - (x[c] - mean) * pull);
  } else {
#pragma omp simd
    for (int64_t c = 0; c < cols; ++c) {
      const float d = dy[c], v = x[c] - mean;
      dx[c] = rstd * (gain[c] * d - shift - v * pull);
      dg[c] += d * v * rstd;
      db[c] += d;
    }
  }
}

}  // namespace

void run(const RmsNormFwd& k, Cpu, Stream&) {
  parallel_for(k.rows, row_grain(k.cols, kGrain), [&](int64_t begin, int64_t end) {
    const float* gain = k.gain;
    for (int64_t r = begin; r < end; ++r) {
      const float* x = k.x + r * k.cols;
      float* y = k.y + r * k.cols;
      float squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t c = 0; c < k.cols; ++c) squares += x[c] * x[c];
      const float rstd = 1.0f / std::sqrt(squares / static_cast<float>(k.cols) + k.eps);
      k.rstd[r] = rstd;
#pragma omp simd
      for (int64_t c = 0; c < k.cols; ++c) y[c] = gain[c] * (x[c] * rstd);
    }
  });
}

void run(const RmsNormBwd& k, Cpu, Stream&) {
  for_row_blocks(k.rows, k.cols, [&](int64_t block, int64_t begin, int64_t end) {
    float* dg = k.dgain == nullptr ? nullptr : k.partial + block * k.cols;
    if (dg != nullptr) std::fill_n(dg, k.cols, 0.0f);
    for (int64_t r = begin; r < end; ++r) rms_row_bwd(k, r, dg);
  });
  if (k.dgain != nullptr) combine(k.partial, norm_row_blocks(k.rows), k.cols, k.dgain, k.accumulate);
}

void run(const LayerNormFwd& k, Cpu, Stream&) {
  parallel_for(k.rows, row_grain(k.cols, kGrain), [&](int64_t begin, int64_t end) {
    const float *gain = k.gain, *bias = k.bias, inverse = 1.0f / static_cast<float>(k.cols);
    for (int64_t r = begin; r < end; ++r) {
      const float* x = k.x + r * k.cols;
      float* y = k.y + r * k.cols;
      float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < k.cols; ++c) sum += x[c];
      const float mean = sum * inverse;
      // A second pass over the cached row: E[x^2] - mean^2 would cancel when |mean| is large.
#pragma omp simd reduction(+ : squares)
      for (int64_t c = 0; c < k.cols; ++c) squares += (x[c] - mean) * (x[c] - mean);
      const float rstd = 1.0f / std::sqrt(squares * inverse + k.eps);
      k.mean[r] = mean;
      k.rstd[r] = rstd;
#pragma omp simd
      for (int64_t c = 0; c < k.cols; ++c) y[c] = gain[c] * ((x[c] - mean) * rstd) + bias[c];
    }
  });
}

void run(const LayerNormBwd& k, Cpu, Stream&) {
  const int64_t blocks = norm_row_blocks(k.rows);
  float *gains = k.partial, *biases = k.partial == nullptr ? nullptr : k.partial + blocks * k.cols;
  for_row_blocks(k.rows, k.cols, [&](int64_t block, int64_t begin, int64_t end) {
    float* dg = gains == nullptr ? nullptr : gains + block * k.cols;
    float* db = biases == nullptr ? nullptr : biases + block * k.cols;
    if (dg != nullptr) {
      std::fill_n(dg, k.cols, 0.0f);
      std::fill_n(db, k.cols, 0.0f);
    }
    for (int64_t r = begin; r < end; ++r) layer_row_bwd(k, r, dg, db);
  });
  if (k.dgain != nullptr) combine(gains, blocks, k.cols, k.dgain, k.accumulate_gain);
  if (k.dbias != nullptr) combine(biases, blocks, k.cols, k.dbias, k.accumulate_bias);
}

}  // namespace tpo
