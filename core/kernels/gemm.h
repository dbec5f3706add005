#pragma once
// Dense products, and the column sums that belong to a bias. fp32 by register tiles where vectors have 512 bits
// (gemm_cpu.cpp has the figures), by BLAS elsewhere, of one row always. Operands stored as bf16 are products of their
// fp32 values summed in fp32, rounded once if the result is bf16 too.
#include <cstdint>
#include <functional>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// Threads that BLAS calls of the calling thread use from now on; >= 1. Called by set_num_threads.
void set_blas_threads(int n);
// The kind of processor whose kernels BLAS uses, as it calls it ("Haswell": 256-bit vectors, "SkylakeX": 512). It
// chooses when it is loaded; the environment variable OPENBLAS_CORETYPE overrides the choice.
const char* blas_kernels();

// c = alpha * op(a) op(b) + beta * c; with beta 0 the old c is not read (NaN there does no harm).
// With alpha 0 whether NaN and infinity of a and b reach c depends on who makes the product.
struct Gemm {
  static constexpr const char* kName = "gemm";
  const void* a;  // (m, k), or (k, m) if trans_a; dtype
  const void* b;  // (k, n), or (n, k) if trans_b; dtype
  void* c;        // (m, n); out_dtype
  int64_t m, n, k;
  bool trans_a, trans_b;
  float alpha = 1;
  float beta = 0;
  DType dtype = DType::kF32, out_dtype = DType::kF32;
  Cost cost() const {
    const int64_t result = width_of(out_dtype) * m * n;
    return {2 * m * n * k, width_of(dtype) * (m * k + k * n) + (beta != 0 ? result : 0), result};
  }
};
void run(const Gemm&, Cpu, Stream&);
void run(const Gemm&, Cuda, Stream&);

// From now on `observer` sees every product that the calling thread starts on the CPU, those inside other kernels
// included, before it runs; an empty one ends it. For benchmarks that run the products of a step alone.
using GemmObserver = std::function<void(const Gemm&)>;
void observe_gemms(GemmObserver observer);

// out[c] (+)= sum_r x[r,c], rows added in order: the result does not depend on threads.
struct ColumnSums {
  static constexpr const char* kName = "column_sums";
  const void* x;  // (rows, cols)
  float* out;     // (cols)
  int64_t rows, cols;
  bool accumulate;
  DType dtype;
  Cost cost() const { return {rows * cols, width_of(dtype) * rows * cols + (accumulate ? 4 * cols : 0), 4 * cols}; }
};
void run(const ColumnSums&, Cpu, Stream&);
void run(const ColumnSums&, Cuda, Stream&);

}  // namespace tpo
