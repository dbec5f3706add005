#pragma once
// Elementwise kernels. All operands of one are stored alike, as f32 or bf16. All are memory-bound: one pass, each
// operand once. Outputs may be the same memory as an input of the same extent (in place); partial overlap is not
// allowed.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

enum class UnaryKind : uint8_t { kRelu, kGelu, kGeluTanh, kSilu, kSigmoid };
// True if the derivative is taken from the output (relu, sigmoid), false if from the input.
bool saves_output(UnaryKind kind);
int64_t flops_of(UnaryKind kind);

// y[i] = f(x[i])
struct UnaryFwd {
  static constexpr const char* kName = "unary_fwd";
  const void* x;  // (n)
  void* y;        // (n)
  int64_t n;
  UnaryKind kind;
  DType dtype;
  Cost cost() const { return {flops_of(kind) * n, width_of(dtype) * n, width_of(dtype) * n}; }
};
void run(const UnaryFwd&, Cpu, Stream&);
void run(const UnaryFwd&, Cuda, Stream&);

// dx[i] = f'(.) dy[i], with f' from `saved` as saves_output says
struct UnaryBwd {
  static constexpr const char* kName = "unary_bwd";
  const void* saved;  // (n)
  const void* dy;     // (n)
  void* dx;           // (n)
  int64_t n;
  UnaryKind kind;
  DType dtype;
  Cost cost() const { return {(flops_of(kind) + 3) * n, 2 * width_of(dtype) * n, width_of(dtype) * n}; }
};
void run(const UnaryBwd&, Cpu, Stream&);
void run(const UnaryBwd&, Cuda, Stream&);

enum class BinaryKind : uint8_t { kAdd, kSub, kMul, kDiv, kMin, kMax };

// y[i] = a[i] op b[i]
struct Binary {
  static constexpr const char* kName = "binary";
  const void* a;  // (n)
  const void* b;  // (n)
  void* y;        // (n)
  int64_t n;
  BinaryKind kind;
  DType dtype;
  Cost cost() const { return {n, 2 * width_of(dtype) * n, width_of(dtype) * n}; }
};
void run(const Binary&, Cpu, Stream&);
void run(const Binary&, Cuda, Stream&);

// da[i] = f_a(a[i], b[i]) dy[i],  db[i] = f_b(a[i], b[i]) dy[i] with the partial derivatives of a quotient, minimum or
// maximum; a null da or db is not wanted. db may be dy.
struct BinaryBwd {
  static constexpr const char* kName = "binary_bwd";
  const void* a;   // (n)
  const void* b;   // (n)
  const void* dy;  // (n)
  void* da;        // (n) or null
  void* db;        // (n) or null
  int64_t n;
  BinaryKind kind;  // kDiv, kMin or kMax
  DType dtype;
  Cost cost() const {
    const int64_t wanted = (da ? 1 : 0) + (db ? 1 : 0);
    return {3 * wanted * n, 3 * width_of(dtype) * n, wanted * width_of(dtype) * n};
  }
};
void run(const BinaryBwd&, Cpu, Stream&);
void run(const BinaryBwd&, Cuda, Stream&);

// y[i] = min(max(x[i], lo), hi); with dy: dx[i] = lo <= x[i] <= hi ? dy[i] : 0, written to y, which may be dy
struct Clamp {
  static constexpr const char* kName = "clamp";
  const void* x;   // (n)
  const void* dy;  // (n), or null for the value
  void* y;         // (n)
  int64_t n;
  float lo, hi;
  DType dtype;
  Cost cost() const { return {2 * n, (dy ? 2 : 1) * width_of(dtype) * n, width_of(dtype) * n}; }
};
void run(const Clamp&, Cpu, Stream&);
void run(const Clamp&, Cuda, Stream&);

// y[i] = alpha x[i]
struct Scale {
  static constexpr const char* kName = "scale";
  const void* x;  // (n)
  void* y;        // (n)
  int64_t n;
  float alpha;
  DType dtype;
  Cost cost() const { return {n, width_of(dtype) * n, width_of(dtype) * n}; }
};
void run(const Scale&, Cpu, Stream&);
void run(const Scale&, Cuda, Stream&);

// y[r,c] = x[r,c] + bias[c]
struct AddBias {
  static constexpr const char* kName = "add_bias";
  const void* x;     // (rows, cols)
  const void* bias;  // (cols)
  void* y;           // (rows, cols), may be x
  int64_t rows, cols;
  DType dtype;
  Cost cost() const { return {rows * cols, width_of(dtype) * (rows + 1) * cols, width_of(dtype) * rows * cols}; }
};
void run(const AddBias&, Cpu, Stream&);
void run(const AddBias&, Cuda, Stream&);

// y[i] = silu(gate[i]) up[i]
struct SwigluFwd {
  static constexpr const char* kName = "swiglu_fwd";
  const void* gate;  // (n)
  const void* up;    // (n)
  void* y;           // (n)
  int64_t n;
  DType dtype;
  Cost cost() const { return {26 * n, 2 * width_of(dtype) * n, width_of(dtype) * n}; }
};
void run(const SwigluFwd&, Cpu, Stream&);
void run(const SwigluFwd&, Cuda, Stream&);

// dgate[i] = silu'(gate[i]) up[i] dy[i],  dup[i] = silu(gate[i]) dy[i]
struct SwigluBwd {
  static constexpr const char* kName = "swiglu_bwd";
  const void* gate;  // (n)
  const void* up;    // (n)
  const void* dy;    // (n)
  void* dgate;       // (n)
  void* dup;         // (n)
  int64_t n;
  DType dtype;
  Cost cost() const { return {30 * n, 3 * width_of(dtype) * n, 2 * width_of(dtype) * n}; }
};
void run(const SwigluBwd&, Cpu, Stream&);
void run(const SwigluBwd&, Cuda, Stream&);

}  // namespace tpo
