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

// All dims of t but the last; (1) for a vector.
inline Shape leading_of(const Tensor& t) {
  Shape s;
  for (int i = 0; i + 1 < t.rank(); ++i) s.push_back(t.dim(i));
  if (t.rank() == 1) s.push_back(1);
  return s;
}

// Ends an op whose result is data, with no gradient: gives its kernels their name in a profile.
inline void record_data(const char* op) { record(op, {}, {}, nullptr); }

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

// Throws DataError unless every value of the i32 tensor t is in [0, limit). Host tensors only: on meta there are none.
inline void check_in_range(const char* op, const char* what, const Tensor& t, int64_t limit) {
  if (t.device() != Device::kCpu) return;
  const int32_t* p = t.data<int32_t>();
  const int64_t n = t.numel();
  int32_t lowest = 0, highest = -1;
#pragma omp simd reduction(min : lowest) reduction(max : highest)
  for (int64_t i = 0; i < n; ++i) {
    lowest = p[i] < lowest ? p[i] : lowest;
    highest = p[i] > highest ? p[i] : highest;
  }
  if (lowest >= 0 && highest < limit) return;
  int64_t at = 0;
  while (p[at] >= 0 && p[at] < limit) ++at;
  throw DataError(cat("[", op, "] ", what, "[", at, "] is ", p[at], ", must be in 0..", limit - 1));
}

// Where a kernel writes the gradient of a weight in fp32: the bucket of a leaf, or scratch that finish() rounds into
// the gradient of a weight that was itself computed. Undefined, with a null address, if input wants no gradient.
struct Fp32Grad {
  GradDest to;
  Tensor grad;
  bool accumulate = false;

  Fp32Grad() = default;
  Fp32Grad(GradSink& dx, int input) {
    if (!dx.wants(input)) return;
    to = dx.destination(input);
    const bool direct = to.grad.dtype() == DType::kF32;
    grad = direct ? to.grad : Tensor::empty(to.grad.shape());
    accumulate = direct && to.accumulate;
  }
  bool wanted() const { return grad.defined(); }
  float* address() const { return f32(grad); }
  void finish() const {
    if (!wanted() || to.grad.dtype() == DType::kF32) return;
    launch(Cast{grad.raw(), to.grad.raw(), grad.numel(), DType::kF32, to.grad.dtype(), to.accumulate});
  }
};

// The same for one gradient: calls write(grad, accumulate) if it is wanted.
template <class Fn>
void fp32_destination(GradSink& dx, int input, const Fn& write) {
  const Fp32Grad g(dx, input);
  if (!g.wanted()) return;
  write(g.grad, g.accumulate);
  g.finish();
}

// Memory for a result of t's shape that an elementwise backward may write while it reads t: t itself if no other handle
// shares its bytes, else new memory.
inline Tensor reuse(const Tensor& t) { return t.unique() ? t.detach() : empty_like(t); }

}  // namespace tpo
