#pragma once
// RMS norm and layer norm over the last dim, with the residual sum that precedes them in a transformer block. Memory-
// bound, one pass. x, residual, sum, y, gain, bias and their gradients are f32 or bf16, all alike; statistics and the
// gradients of gain and bias are fp32. The sums over rows (dgain, dbias) go through `partial`, one line per fixed block
// of rows, combined in block order: the result does not depend on the thread count.
#include <algorithm>
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// Blocks of rows for column sums: at least 32 rows each, at most 64 blocks. A function of the shape only.
inline int64_t norm_row_blocks(int64_t rows) { return std::clamp<int64_t>((rows + 31) / 32, 1, 64); }

enum class NormKind : uint8_t { kRms, kLayer };

// x += residual if there is one (the sum, as stored, is what is normalised), then
// kRms:   rstd[r] = 1 / sqrt(mean_c x^2 + eps),  y[r,c] = gain[c] x[r,c] rstd[r]
// kLayer: mean[r] = mean_c x,  rstd[r] = 1 / sqrt(mean_c (x - mean)^2 + eps),  y = gain (x - mean) rstd + bias
struct NormFwd {
  static constexpr const char* kName = "norm_fwd";
  const void* x;         // (rows, cols)
  const void* residual;  // (rows, cols) or null
  void* sum;             // (rows, cols), null without residual
  const void* gain;      // (cols)
  const void* bias;      // (cols), null for kRms
  void* y;               // (rows, cols)
  float* mean;           // (rows), null for kRms
  float* rstd;           // (rows)
  int64_t rows, cols;
  float eps;
  NormKind kind;
  DType dtype;
  Cost cost() const {
    const int64_t lines = kind == NormKind::kLayer ? 2 : 1, streams = residual != nullptr ? 2 : 1;
    return {(kind == NormKind::kLayer ? 7 : 4) * rows * cols + (streams - 1) * rows * cols,
            width_of(dtype) * (streams * rows + lines) * cols,
            width_of(dtype) * streams * rows * cols + 4 * lines * rows};
  }
};
void run(const NormFwd&, Cpu, Stream&);
void run(const NormFwd&, Cuda, Stream&);

// With h = (x - mean) rstd (mean 0 for kRms) and g = gain dy:
//   dx = rstd (g - mean_c(g) [kLayer only] - h mean_c(g h)) + dsum,  dgain[c] (+)= sum_r dy h,  dbias[c] (+)= sum_r dy
struct NormBwd {
  static constexpr const char* kName = "norm_bwd";
  const void* x;      // (rows, cols), what was normalised
  const void* gain;   // (cols)
  const float* mean;  // (rows), null for kRms
  const float* rstd;  // (rows)
  const void* dy;     // (rows, cols)
  const void* dsum;   // (rows, cols) or null: the gradient of the sum from elsewhere
  void* dx;           // (rows, cols); may be the memory of dy or dsum
  float* dgain;       // (cols), null: not wanted
  float* dbias;       // (cols), null: not wanted
  float* partial;     // (kRms 1, kLayer 2; norm_row_blocks(rows); cols), null if neither is wanted
  int64_t rows, cols;
  bool accumulate_gain, accumulate_bias;
  NormKind kind;
  DType dtype;
  Cost cost() const {
    const int64_t lines = kind == NormKind::kLayer ? 2 : 1, streams = dsum != nullptr ? 3 : 2;
    return {(kind == NormKind::kLayer ? 14 : 10) * rows * cols,
            width_of(dtype) * (streams * rows + 1) * cols + 4 * lines * rows, width_of(dtype) * rows * cols};
  }
};
void run(const NormBwd&, Cpu, Stream&);
void run(const NormBwd&, Cuda, Stream&);

}  // namespace tpo
