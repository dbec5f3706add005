// Products by OpenBLAS. Its OpenMP build shares the pool of parallel_for, runs on one thread inside a parallel region
// and below 64^3 products, where a parallel region costs more than it saves.
#include <cblas.h>

#include <algorithm>

#include "core/kernels/gemm.h"
#include "core/parallel_for.h"

namespace tpo {

void set_blas_threads(int n) { openblas_set_num_threads(n); }

namespace {

// One row against a matrix: sgemm would pack the whole matrix for it.
void run_one_row(const Gemm& k) {
  const auto rows = static_cast<blasint>(k.trans_b ? k.n : k.k), cols = static_cast<blasint>(k.trans_b ? k.k : k.n);
  cblas_sgemv(CblasRowMajor, k.trans_b ? CblasNoTrans : CblasTrans, rows, cols, k.alpha, k.b, cols, k.a, 1, k.beta, k.c,
              1);
}

}  // namespace

void run(const Gemm& k, Cpu, Stream&) {
  if (k.m == 0 || k.n == 0) return;
  if (k.k == 0) {  // an empty sum; BLAS refuses leading dimensions of 0
    for (int64_t i = 0; i < k.m * k.n; ++i) k.c[i] = k.beta == 0 ? 0 : k.beta * k.c[i];
    return;
  }
  if (k.m == 1) return run_one_row(k);
  const auto m = static_cast<blasint>(k.m), n = static_cast<blasint>(k.n), depth = static_cast<blasint>(k.k);
  cblas_sgemm(CblasRowMajor, k.trans_a ? CblasTrans : CblasNoTrans, k.trans_b ? CblasTrans : CblasNoTrans, m, n, depth,
              k.alpha, k.a, k.trans_a ? m : depth, k.b, k.trans_b ? depth : n, k.beta, k.c, n);
}

void run(const ColumnSums& k, Cpu, Stream&) {
  // A thread owns columns; 4096 rows x columns of adds take about as long as starting it.
  const int64_t grain = std::max<int64_t>(64, (int64_t{1} << 16) / std::max<int64_t>(1, k.rows));
  parallel_for(k.cols, grain, [&](int64_t begin, int64_t end) {
    if (!k.accumulate) std::fill(k.out + begin, k.out + end, 0.0f);
    for (int64_t r = 0; r < k.rows; ++r) {
      const float* row = k.x + r * k.cols;
      float* out = k.out;
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) out[c] += row[c];
    }
  });
}

}  // namespace tpo
