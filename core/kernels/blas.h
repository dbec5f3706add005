#pragma once
// The BLAS, found when the program starts. Included by gemm_cpu.cpp only.
#include <cstdint>

namespace tpo {

// Row-major c (m, n) = alpha op(a) op(b) + beta c, all fp32; extents at least 1.
void blas_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                const float* b, int64_t ldb, float beta, float* c, int64_t ldc);
// y (+)= alpha op(a) x for row-major a (rows, cols), with beta as above.
void blas_sgemv(bool trans, int64_t rows, int64_t cols, float alpha, const float* a, const float* x, float beta,
                float* y);
// Name of the processor kind whose kernels are in use, as OpenBLAS calls it ("Haswell", "SkylakeX").
const char* blas_kernels();

}  // namespace tpo
