#pragma once
// Many small products of one shape. Compute-bound. A small product is the work of one thread, in register tiles or as
// run(Gemm) makes it (bmm_cpu.cpp says where); large ones run one after the other on all threads. Sums are fp32,
// rounded once if the result is bf16.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// c[i] (+)= op(a[i]) op(b[i]) for every i of the batch
struct Bmm {
  static constexpr const char* kName = "bmm";
  const void* a;  // (batch, m, k), or (batch, k, m) if trans_a; dtype
  const void* b;  // (batch, k, n), or (batch, n, k) if trans_b; dtype
  void* c;        // (batch, m, n); out_dtype
  int64_t batch, m, n, k;
  bool trans_a, trans_b, accumulate;
  DType dtype, out_dtype;
  Cost cost() const {
    const int64_t result = width_of(out_dtype) * batch * m * n;
    return {2 * batch * m * n * k, width_of(dtype) * batch * (m * k + k * n) + (accumulate ? result : 0), result};
  }
};
void run(const Bmm&, Cpu, Stream&);
void run(const Bmm&, Cuda, Stream&);

}  // namespace tpo
