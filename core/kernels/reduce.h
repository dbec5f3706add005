#pragma once
// Sums in fp32 or double, combined in a fixed order that does not depend on the thread count. Memory-bound.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// out[0] = sum_i x[i], partial sums of fixed chunks combined in double
struct SumAll {
  static constexpr const char* kName = "sum_all";
  const void* x;  // (n)
  float* out;     // (1)
  int64_t n;
  DType dtype;
  Cost cost() const { return {n, width_of(dtype) * n, 4}; }
};
void run(const SumAll&, Cpu, Stream&);
void run(const SumAll&, Cuda, Stream&);

// y[i] = value[0] for all i (the backward of a sum)
struct FillWith {
  static constexpr const char* kName = "fill_with";
  const float* value;  // (1)
  void* y;             // (n)
  int64_t n;
  DType dtype;
  Cost cost() const { return {0, 4, width_of(dtype) * n}; }
};
void run(const FillWith&, Cpu, Stream&);
void run(const FillWith&, Cuda, Stream&);

// y[o,c] = alpha sum_{g < group} x[o group + g, c]
struct PoolRowsFwd {
  static constexpr const char* kName = "pool_rows_fwd";
  const void* x;  // (out_rows * group, cols)
  void* y;        // (out_rows, cols)
  int64_t out_rows, group, cols;
  float alpha;
  DType dtype;
  Cost cost() const {
    const int64_t out_bytes = width_of(dtype) * out_rows * cols;
    return {out_rows * group * cols, group * out_bytes, out_bytes};
  }
};
void run(const PoolRowsFwd&, Cpu, Stream&);
void run(const PoolRowsFwd&, Cuda, Stream&);

// dx[o group + g, c] = alpha dy[o, c]
struct PoolRowsBwd {
  static constexpr const char* kName = "pool_rows_bwd";
  const void* dy;  // (out_rows, cols)
  void* dx;        // (out_rows * group, cols)
  int64_t out_rows, group, cols;
  float alpha;
  DType dtype;
  Cost cost() const {
    const int64_t out_bytes = width_of(dtype) * out_rows * cols;
    return {out_rows * group * cols, out_bytes, group * out_bytes};
  }
};
void run(const PoolRowsBwd&, Cpu, Stream&);
void run(const PoolRowsBwd&, Cuda, Stream&);

// y[r] = alpha sum_c x[r,c], at most 1024 columns summed in fp32 before double takes over
struct SumLast {
  static constexpr const char* kName = "sum_last";
  const void* x;  // (rows, cols)
  void* y;        // (rows)
  int64_t rows, cols;
  float alpha;
  DType dtype;
  Cost cost() const { return {rows * cols, width_of(dtype) * rows * cols, width_of(dtype) * rows}; }
};
void run(const SumLast&, Cpu, Stream&);
void run(const SumLast&, Cuda, Stream&);

// y[r,c] = alpha x[r]
struct RepeatLast {
  static constexpr const char* kName = "repeat_last";
  const void* x;  // (rows)
  void* y;        // (rows, cols)
  int64_t rows, cols;
  float alpha;
  DType dtype;
  Cost cost() const { return {rows, width_of(dtype) * rows, width_of(dtype) * rows * cols}; }
};
void run(const RepeatLast&, Cpu, Stream&);
void run(const RepeatLast&, Cuda, Stream&);

// out[r] = the smallest c with x[r,c] = max_c x[r,c]; NaN counts as the maximum. Requires: cols >= 1.
struct ArgmaxRows {
  static constexpr const char* kName = "argmax_rows";
  const void* x;  // (rows, cols)
  int32_t* out;   // (rows)
  int64_t rows, cols;
  DType dtype;
  Cost cost() const { return {rows * cols, width_of(dtype) * rows * cols, 4 * rows}; }
};
void run(const ArgmaxRows&, Cpu, Stream&);
void run(const ArgmaxRows&, Cuda, Stream&);

// Of gradients and optimizer state, which are fp32: *out = sum_i x[i]^2 in double over fixed chunks; NaN or inf
// anywhere makes it so. `out` is host memory.
struct SumSquares {
  static constexpr const char* kName = "sum_squares";
  const float* x;  // (n)
  double* out;     // (1)
  int64_t n;
  Cost cost() const { return {2 * n, 4 * n, 8}; }
};
void run(const SumSquares&, Cpu, Stream&);
void run(const SumSquares&, Cuda, Stream&);

// *out = number of elements that are NaN or inf. `out` is host memory.
struct CountNonFinite {
  static constexpr const char* kName = "count_non_finite";
  const float* x;  // (n)
  int64_t* out;    // (1)
  int64_t n;
  Cost cost() const { return {n, 4 * n, 8}; }
};
void run(const CountNonFinite&, Cpu, Stream&);
void run(const CountNonFinite&, Cuda, Stream&);

}  // namespace tpo
