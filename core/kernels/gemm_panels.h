#pragma once
// Products of fp32 matrices by register tiles: what run(Gemm) does with vectors of 512 bits, of all shapes but one row
// (gemm_cpu.cpp says why). Sizes of its pieces were chosen on Zen 5, with 48 KiB of first-level cache and 1 MiB of
// second.
// Every element is one chain of multiply-adds over pieces of kDepth terms, c = alpha * sum + beta * c after each, in
// the order of k: it does not depend on the number of rows, columns or threads, nor on where in the matrix it stands.
#include <cstdint>

#include "core/kernels/gemm.h"

namespace tpo {

// kernel.dtype and out_dtype f32, extents at least 1. On up to num_threads() threads if `threads`, else on this one.
void multiply_panels(const Gemm& kernel, bool threads);

// run(Gemm) of such a product: one row by BLAS, more by register tiles if `panels`, else by BLAS too. A parameter so
// that tests see both on any machine.
void multiply_f32(const Gemm& kernel, bool panels);

}  // namespace tpo
