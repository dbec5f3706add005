// Elementwise kernels. Memory-bound: figures beside the copy bandwidth stand in bench/results.
#include "core/error.h"
#include "core/kernels/pointwise.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/pointwise_math.h"
#include "core/stream.h"

namespace tpo {

namespace {

// Calls fn with the functor of `kind`.
template <class Fn>
auto with_unary(UnaryKind kind, const Fn& fn) {
  switch (kind) {
    case UnaryKind::kRelu:
      return fn(math::Relu{});
    case UnaryKind::kGelu:
      return fn(math::Gelu{});
    case UnaryKind::kGeluTanh:
      return fn(math::GeluTanh{});
    case UnaryKind::kSilu:
      return fn(math::Silu{});
    case UnaryKind::kSigmoid:
      return fn(math::Sigmoid{});
  }
  TPO_ASSERT(false);
}

template <class Op>
void binary(const Binary& k, const Op& op) {
  for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) {
    const float *a = k.a, *b = k.b;
    float* y = k.y;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) y[i] = op(a[i], b[i]);
  });
}

}  // namespace

bool saves_output(UnaryKind kind) {
  return with_unary(kind, [](auto f) { return decltype(f)::kSavesOutput; });
}

int64_t flops_of(UnaryKind kind) {
  return with_unary(kind, [](auto f) { return decltype(f)::kFlops; });
}

void run(const UnaryFwd& k, Cpu, Stream&) {
  with_unary(k.kind, [&](auto f) {
    for_elements(k.n, kHeavyGrain, [&](int64_t begin, int64_t end) {
      const float* x = k.x;
      float* y = k.y;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) y[i] = f.f(x[i]);
    });
  });
}

void run(const UnaryBwd& k, Cpu, Stream&) {
  with_unary(k.kind, [&](auto f) {
    for_elements(k.n, kHeavyGrain, [&](int64_t begin, int64_t end) {
      const float *saved = k.saved, *dy = k.dy;
      float* dx = k.dx;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) dx[i] = f.d(saved[i]) * dy[i];
    });
  });
}

void run(const Binary& k, Cpu, Stream&) {
  switch (k.kind) {
    case BinaryKind::kAdd:
      return binary(k, [](float a, float b) { return a + b; });
    case BinaryKind::kSub:
      return binary(k, [](float a, float b) { return a - b; });
    case BinaryKind::kMul:
      return binary(k, [](float a, float b) { return a * b; });
  }
}

void run(const Scale& k, Cpu, Stream&) {
  for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) {
    const float *x = k.x, alpha = k.alpha;
    float* y = k.y;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) y[i] = alpha * x[i];
  });
}

void run(const AddBias& k, Cpu, Stream&) {
  parallel_for(k.rows, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
    const float* bias = k.bias;
    for (int64_t r = begin; r < end; ++r) {
      const float* x = k.x + r * k.cols;
      float* y = k.y + r * k.cols;
#pragma omp simd
      for (int64_t c = 0; c < k.cols; ++c) y[c] = x[c] + bias[c];
    }
  });
}

void run(const SwigluFwd& k, Cpu, Stream&) {
  for_elements(k.n, kHeavyGrain, [&](int64_t begin, int64_t end) {
    const float *gate = k.gate, *up = k.up;
    float* y = k.y;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) y[i] = math::Silu::f(gate[i]) * up[i];
  });
}

void run(const SwigluBwd& k, Cpu, Stream&) {
  for_elements(k.n, kHeavyGrain, [&](int64_t begin, int64_t end) {
    const float *gate = k.gate, *up = k.up, *dy = k.dy;
    float *dgate = k.dgate, *dup = k.dup;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const float g = gate[i], d = dy[i], u = up[i], s = math::sigmoid(g), y = g * s;
      dgate[i] = d * u * (s + y * (1.0f - s));
      dup[i] = d * y;
    }
  });
}

}  // namespace tpo
