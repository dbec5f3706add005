#pragma once
// RMS norm and layer norm over the last dim, fp32. Memory-bound.
// The sums over rows (dgain, dbias) go through `partial`, one line per fixed block of rows, combined in block order:
// the result does not depend on the thread count.
#include <algorithm>
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

// Blocks of rows for column sums: at least 32 rows each, at most 64 blocks. A function of the shape only.
inline int64_t norm_row_blocks(int64_t rows) { return std::clamp<int64_t>((rows + 31) / 32, 1, 64); }

// rstd[r] = 1 / sqrt(mean_c x^2 + eps),  y[r,c] = gain[c] x[r,c] rstd[r]
struct RmsNormFwd {
  static constexpr const char* kName = "rms_norm_fwd";
  const float* x;     // (rows, cols)
  const float* gain;  // (cols)
  float* y;           // (rows, cols)
  float* rstd;        // (rows)
  int64_t rows, cols;
  float eps;
  Cost cost() const { return {4 * rows * cols, 4 * (rows + 1) * cols, 4 * rows * (cols + 1)}; }
};
void run(const RmsNormFwd&, Cpu, Stream&);
void run(const RmsNormFwd&, Cuda, Stream&);

// With h = x rstd:  dx = rstd (gain dy - h mean_c(gain dy h)),  dgain[c] (+)= sum_r dy h
struct RmsNormBwd {
  static constexpr const char* kName = "rms_norm_bwd";
  const float* x;     // (rows, cols)
  const float* gain;  // (cols)
  const float* rstd;  // (rows)
  const float* dy;    // (rows, cols)
  float* dx;          // (rows, cols)
  float* dgain;       // (cols), null: not wanted
  float* partial;     // (norm_row_blocks(rows), cols), null with dgain
  int64_t rows, cols;
  bool accumulate;  // dgain is added to
  Cost cost() const { return {10 * rows * cols, 4 * (2 * rows + 1) * cols + 4 * rows, 4 * rows * cols}; }
};
void run(const RmsNormBwd&, Cpu, Stream&);
void run(const RmsNormBwd&, Cuda, Stream&);

// mean and rstd = 1 / sqrt(var + eps) of each row (var: mean of squared deviations), y = gain (x - mean) rstd + bias
struct LayerNormFwd {
  static constexpr const char* kName = "layer_norm_fwd";
  const float* x;     // (rows, cols)
  const float* gain;  // (cols)
  const float* bias;  // (cols)
  float* y;           // (rows, cols)
  float* mean;        // (rows)
  float* rstd;        // (rows)
  int64_t rows, cols;
  float eps;
  Cost cost() const { return {7 * rows * cols, 4 * (rows + 2) * cols, 4 * rows * (cols + 2)}; }
};
void run(const LayerNormFwd&, Cpu, Stream&);
void run(const LayerNormFwd&, Cuda, Stream&);

// With h = (x - mean) rstd and g = gain dy:  dx = rstd (g - mean_c(g) - h mean_c(g h)),
// dgain[c] (+)= sum_r dy h,  dbias[c] (+)= sum_r dy
struct LayerNormBwd {
  static constexpr const char* kName = "layer_norm_bwd";
  const float* x;     // (rows, cols)
  const float* gain;  // (cols)
  const float* mean;  // (rows)
  const float* rstd;  // (rows)
  const float* dy;    // (rows, cols)
  float* dx;          // (rows, cols)
  float* dgain;       // (cols), null: not wanted
  float* dbias;       // (cols), null: not wanted
  float* partial;     // (2, norm_row_blocks(rows), cols), null if neither is wanted
  int64_t rows, cols;
  bool accumulate_gain, accumulate_bias;
  Cost cost() const { return {14 * rows * cols, 4 * (2 * rows + 1) * cols + 8 * rows, 4 * rows * cols}; }
};
void run(const LayerNormBwd&, Cpu, Stream&);
void run(const LayerNormBwd&, Cuda, Stream&);

}  // namespace tpo
