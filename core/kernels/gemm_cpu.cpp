// Products by register tiles (gemm_panels.h) with vectors of 512 bits, by OpenBLAS with shorter ones. Both share the
// pool of parallel_for, and run on one thread inside a parallel region and below kAlone, where a parallel region costs
// more than it saves.
#include <cblas.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/kernels/gemm.h"
#include "core/kernels/gemm_panels.h"
#include "core/kernels/simd.h"
#include "core/kernels/storage.h"
#include "core/parallel_for.h"

namespace tpo {

void set_blas_threads(int n) { openblas_set_num_threads(n); }

const char* blas_kernels() { return openblas_get_corename(); }

namespace {

thread_local GemmObserver t_observer;

// Multiply-adds below which a second thread brings less than meeting it costs: 32 us of one core with vectors of 512
// bits.
constexpr int64_t kAlone = int64_t{1} << 22;

// On Zen 5 at a multiply-add peak of 265 to 272 GFLOP/s, operands in cache: 225 to 268, 1.05 to 1.15 of OpenBLAS 0.3.21
// where a is not transposed, 1.2 to 3 for adapters (bench/results/parts.md). Not all shapes gain: weight gradients 0.94
// to 1.11, 160 x 8 only 0.43. These too go through tiles, so that the bits of every product of more than one row depend
// neither on rows nor on threads.
constexpr bool kTiles = simd::kLanes == 16;

// Row-major c (m, n) = alpha op(a) op(b) + beta c; extents at least 1.
void sgemm(const Gemm& shape, const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
           int64_t ldc) {
  const auto size = [](int64_t v) { return static_cast<blasint>(v); };
  cblas_sgemm(CblasRowMajor, shape.trans_a ? CblasTrans : CblasNoTrans, shape.trans_b ? CblasTrans : CblasNoTrans,
              size(shape.m), size(shape.n), size(shape.k), shape.alpha, a, size(lda), b, size(ldb), beta, c, size(ldc));
}

// A matrix as it lies in memory.
template <class T>
struct Matrix {
  T* p;
  int64_t ld;
};

// Elements [r0, r0 + rows) x [c0, c0 + cols) of op(x) in fp32, laid out as x is (transposed stays transposed).
template <class T>
Matrix<const float> block_of(Matrix<const T> x, bool trans, int64_t r0, int64_t rows, int64_t c0, int64_t cols,
                             std::vector<float>& scratch) {
  if (trans) std::swap(r0, c0), std::swap(rows, cols);
  scratch.resize(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r) convert(x.p + (r0 + r) * x.ld + c0, scratch.data() + r * cols, cols);
  return {scratch.data(), cols};
}

// Blocks of 256 x 256 of the result are summed in fp32 over pieces of 512 of the depth, whose operands are widened into
// scratch: 1.3 MiB, in the second-level cache.
template <class In, class Out>
void product_blocks(const Gemm& k) {
  constexpr int64_t kSide = 256, kDepth = 512;
  const Matrix<const In> a{static_cast<const In*>(k.a), k.trans_a ? k.m : k.k};
  const Matrix<const In> b{static_cast<const In*>(k.b), k.trans_b ? k.k : k.n};
  std::vector<float> a_block, b_block, sums(kSide * kSide);
  for (int64_t i = 0; i < k.m; i += kSide) {
    for (int64_t j = 0; j < k.n; j += kSide) {
      const int64_t rows = std::min(kSide, k.m - i), cols = std::min(kSide, k.n - j);
      for (int64_t d = 0; d < k.k; d += kDepth) {
        const int64_t depth = std::min(kDepth, k.k - d);
        const auto x = block_of(a, k.trans_a, i, rows, d, depth, a_block);
        const auto y = block_of(b, k.trans_b, d, depth, j, cols, b_block);
        Gemm piece = k;
        piece.m = rows, piece.n = cols, piece.k = depth;
        sgemm(piece, x.p, x.ld, y.p, y.ld, d == 0 ? 0.0f : 1.0f, sums.data(), cols);
      }
      for (int64_t r = 0; r < rows; ++r) {
        Out* c = static_cast<Out*>(k.c) + (i + r) * k.n + j;
        for (int64_t q = 0; q < cols; ++q)
          c[q] = narrow<Out>(sums[static_cast<size_t>(r * cols + q)] + (k.beta == 0 ? 0.0f : k.beta * widen(c[q])));
      }
    }
  }
}

}  // namespace

void multiply_f32(const Gemm& k, bool panels) {
  const auto *a = static_cast<const float*>(k.a), *b = static_cast<const float*>(k.b);
  auto* c = static_cast<float*>(k.c);
  if (k.m == 1) {  // sgemm would pack the whole matrix for one row
    const auto rows = static_cast<blasint>(k.trans_b ? k.n : k.k), cols = static_cast<blasint>(k.trans_b ? k.k : k.n);
    return cblas_sgemv(CblasRowMajor, k.trans_b ? CblasNoTrans : CblasTrans, rows, cols, k.alpha, b, cols, a, 1, k.beta,
                       c, 1);
  }
  const bool alone = k.m * k.n * k.k < kAlone;
  if (panels) return multiply_panels(k, !alone);
  const SingleThreadScope scope(alone);
  sgemm(k, a, k.trans_a ? k.m : k.k, b, k.trans_b ? k.k : k.n, k.beta, c, k.n);
}

void observe_gemms(GemmObserver observer) { t_observer = std::move(observer); }

void run(const Gemm& k, Cpu, Stream&) {
  if (t_observer) t_observer(k);
  if (k.m == 0 || k.n == 0) return;
  if (k.k == 0) {  // an empty sum; BLAS refuses leading dimensions of 0
    return with_storage(k.out_dtype, [&]<class T>() {
      T* c = static_cast<T*>(k.c);
      for (int64_t i = 0; i < k.m * k.n; ++i) c[i] = narrow<T>(k.beta == 0 ? 0 : k.beta * widen(c[i]));
    });
  }
  if (k.dtype == DType::kF32 && k.out_dtype == DType::kF32) return multiply_f32(k, kTiles);
  with_storage(k.dtype,
               [&]<class In>() { with_storage(k.out_dtype, [&]<class Out>() { product_blocks<In, Out>(k); }); });
}

void run(const ColumnSums& k, Cpu, Stream&) {
  // A thread owns columns; 4096 rows x columns of adds take about as long as starting it.
  const int64_t grain = std::max<int64_t>(64, (int64_t{1} << 16) / std::max<int64_t>(1, k.rows));
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.cols, grain, [&](int64_t begin, int64_t end) {
      if (!k.accumulate) std::fill(k.out + begin, k.out + end, 0.0f);
      for (int64_t r = 0; r < k.rows; ++r) {
        const T* row = static_cast<const T*>(k.x) + r * k.cols;
        float* out = k.out;
#pragma omp simd
        for (int64_t c = begin; c < end; ++c) out[c] += widen(row[c]);
      }
    });
  });
}

}  // namespace tpo
