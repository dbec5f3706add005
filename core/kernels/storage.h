#pragma once
// Storage of floating-point operands: fp32 or bf16, computed in fp32. A kernel struct holds `const void*` and the
// DType; its body is written once, over the element type, with widen on loads and narrow on stores. Rounding happens at
// stores only.
#include <algorithm>
#include <cstdint>

#include "core/dtype.h"
#include "core/error.h"

namespace tpo {

TPO_INLINE float widen(float x) { return x; }
TPO_INLINE float widen(BF16 x) { return static_cast<float>(x); }

template <class T>
TPO_INLINE T narrow(float x) {
  return T(x);
}

// Calls fn.operator()<float>() or fn.operator()<BF16>(). Ops have checked the dtype before.
template <class Fn>
void with_storage(DType dtype, const Fn& fn) {
  if (dtype == DType::kBF16) return fn.template operator()<BF16>();
  TPO_ASSERT(dtype == DType::kF32);
  fn.template operator()<float>();
}

// to[i] = from[i], rounded if narrower.
template <class To, class From>
TPO_INLINE void convert(const From* from, To* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = narrow<To>(widen(from[i]));
}

// Rows for kernels that make several passes over one: fp32 rows are used where they lie, bf16 rows go through `scratch`
// of `cols` floats.
inline const float* read_row(const float* row, float*, int64_t) { return row; }
inline const float* read_row(const BF16* row, float* scratch, int64_t cols) {
  convert(row, scratch, cols);
  return scratch;
}
// Where to write a row in fp32, and the rounding afterwards.
inline float* write_row(float* row, float*) { return row; }
inline float* write_row(BF16*, float* scratch) { return scratch; }
inline void finish_row(float*, const float*, int64_t) {}
inline void finish_row(BF16* row, const float* scratch, int64_t cols) { convert(scratch, row, cols); }

}  // namespace tpo
