#pragma once
// Elementwise kernels, fp32. All are memory-bound: one pass, each operand once. Outputs may be the same memory as an
// input of the same extent (in place); partial overlap is not allowed.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

enum class UnaryKind : uint8_t { kRelu, kGelu, kGeluTanh, kSilu, kSigmoid };
// True if the derivative is taken from the output (relu, sigmoid), false if from the input.
bool saves_output(UnaryKind kind);
int64_t flops_of(UnaryKind kind);

// y[i] = f(x[i])
struct UnaryFwd {
  static constexpr const char* kName = "unary_fwd";
  const float* x;  // (n)
  float* y;        // (n)
  int64_t n;
  UnaryKind kind;
  Cost cost() const { return {flops_of(kind) * n, 4 * n, 4 * n}; }
};
void run(const UnaryFwd&, Cpu, Stream&);
void run(const UnaryFwd&, Cuda, Stream&);

// dx[i] = f'(.) dy[i], with f' from `saved` as saves_output says
struct UnaryBwd {
  static constexpr const char* kName = "unary_bwd";
  const float* saved;  // (n)
  const float* dy;     // (n)
  float* dx;           // (n)
  int64_t n;
  UnaryKind kind;
  Cost cost() const { return {(flops_of(kind) + 3) * n, 8 * n, 4 * n}; }
};
void run(const UnaryBwd&, Cpu, Stream&);
void run(const UnaryBwd&, Cuda, Stream&);

enum class BinaryKind : uint8_t { kAdd, kSub, kMul };

// y[i] = a[i] op b[i]
struct Binary {
  static constexpr const char* kName = "binary";
  const float* a;  // (n)
  const float* b;  // (n)
  float* y;        // (n)
  int64_t n;
  BinaryKind kind;
  Cost cost() const { return {n, 8 * n, 4 * n}; }
};
void run(const Binary&, Cpu, Stream&);
void run(const Binary&, Cuda, Stream&);

// y[i] = alpha x[i]
struct Scale {
  static constexpr const char* kName = "scale";
  const float* x;  // (n)
  float* y;        // (n)
  int64_t n;
  float alpha;
  Cost cost() const { return {n, 4 * n, 4 * n}; }
};
void run(const Scale&, Cpu, Stream&);
void run(const Scale&, Cuda, Stream&);

// y[r,c] = x[r,c] + bias[c]
struct AddBias {
  static constexpr const char* kName = "add_bias";
  const float* x;     // (rows, cols)
  const float* bias;  // (cols)
  float* y;           // (rows, cols)
  int64_t rows, cols;
  Cost cost() const { return {rows * cols, 4 * (rows + 1) * cols, 4 * rows * cols}; }
};
void run(const AddBias&, Cpu, Stream&);
void run(const AddBias&, Cuda, Stream&);

// y[i] = silu(gate[i]) up[i]
struct SwigluFwd {
  static constexpr const char* kName = "swiglu_fwd";
  const float* gate;  // (n)
  const float* up;    // (n)
  float* y;           // (n)
  int64_t n;
  Cost cost() const { return {26 * n, 8 * n, 4 * n}; }
};
void run(const SwigluFwd&, Cpu, Stream&);
void run(const SwigluFwd&, Cuda, Stream&);

// dgate[i] = silu'(gate[i]) up[i] dy[i],  dup[i] = silu(gate[i]) dy[i]
struct SwigluBwd {
  static constexpr const char* kName = "swiglu_bwd";
  const float* gate;  // (n)
  const float* up;    // (n)
  const float* dy;    // (n)
  float* dgate;       // (n)
  float* dup;         // (n)
  int64_t n;
  Cost cost() const { return {30 * n, 12 * n, 8 * n}; }
};
void run(const SwigluBwd&, Cpu, Stream&);
void run(const SwigluBwd&, Cuda, Stream&);

}  // namespace tpo
