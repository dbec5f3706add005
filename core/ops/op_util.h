#pragma once
// Small helpers of op functions: typed addresses for kernels and the checks that every op repeats.
#include "core/kernels/cast.h"
#include "core/launch.h"
#include "core/tape.h"

namespace tpo {

// Addresses for kernel structs; on meta they are fake and never touched.
inline void* raw(const Tensor& t) { return t.defined() ? t.raw() : nullptr; }
inline float* f32(const Tensor& t) { return t.defined() ? static_cast<float*>(t.raw()) : nullptr; }
inline const int32_t* i32(const Tensor& t) { return static_cast<const int32_t*>(t.raw()); }

// Rows of t seen as a matrix (rows, last dim).
inline int64_t rows_of(const Tensor& t) {
  int64_t n = 1;
  for (int i = 0; i + 1 < t.rank(); ++i) n *= t.dim(i);
  return n;
}

// Throws ShapeError unless t is defined and fp32.
inline void check_f32(const char* op, const Tensor& t, const char* what) {
  check_shape(t.defined(), "[", op, "] ", what, " is undefined");
  check_shape(t.dtype() == DType::kF32, "[", op, "] ", what, " is ", t.dtype(), ", must be f32");
}

// Throws ShapeError unless t is defined and of a floating-point storage.
inline void check_float(const char* op, const Tensor& t, const char* what) {
  check_shape(t.defined(), "[", op, "] ", what, " is undefined");
  check_shape(is_float(t.dtype()), "[", op, "] ", what, " is ", t.dtype(), ", must be f32 or bf16");
}

// Throws ShapeError unless t is defined and stored as x is, which has passed check_float.
inline void check_like(const char* op, const Tensor& t, const char* what, const Tensor& x) {
  check_shape(t.defined(), "[", op, "] ", what, " is undefined");
  check_shape(t.dtype() == x.dtype(), "[", op, "] ", what, " is ", t.dtype(), ", must be ", x.dtype(),
              " like the first operand");
}

// Throws ShapeError unless t is a defined vector of int32.
inline void check_i32_vector(const char* op, const Tensor& t, const char* what) {
  check_shape(t.defined(), "[", op, "] ", what, " is undefined");
  check_shape(t.dtype() == DType::kI32 && t.rank() == 1, "[", op, "] ", what, " ", t.shape(), " of ", t.dtype(),
              " must be a vector of i32");
}

// For kernels that make the gradient of a weight in fp32: calls write(grad, accumulate) with the bucket of a leaf, or
// with scratch that is then rounded into the gradient of a weight that was itself computed.
template <class Fn>
void fp32_destination(GradSink& dx, int input, const Fn& write) {
  if (!dx.wants(input)) return;
  const GradDest d = dx.destination(input);
  if (d.grad.dtype() == DType::kF32) return write(d.grad, d.accumulate);
  const Tensor wide = Tensor::empty(d.grad.shape());
  write(wide, false);
  launch(Cast{wide.raw(), d.grad.raw(), wide.numel(), DType::kF32, d.grad.dtype(), d.accumulate});
}

// Memory for a result of t's shape that an elementwise backward may write while it reads t: t itself if no other handle
// shares its bytes, else new memory.
inline Tensor reuse(const Tensor& t) { return t.unique() ? t.detach() : empty_like(t); }

}  // namespace tpo
