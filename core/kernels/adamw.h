#pragma once
// One AdamW step over a flat run of parameters, fp32. Memory-bound: 28 bytes an element.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

// With g = grad_scale grad:  m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,
// param = decay_factor param - step_size m / (sqrt(v) inverse_root2 + eps)
struct AdamW {
  static constexpr const char* kName = "adamw";
  float* param;       // (n)
  const float* grad;  // (n)
  float* m;           // (n)
  float* v;           // (n)
  int64_t n;
  float grad_scale;
  float beta1, beta2, eps;
  float decay_factor;   // 1 - lr weight_decay
  float step_size;      // lr / (1 - beta1^step)
  float inverse_root2;  // 1 / sqrt(1 - beta2^step)
  Cost cost() const { return {14 * n, 16 * n, 12 * n}; }
};
void run(const AdamW&, Cpu, Stream&);
void run(const AdamW&, Cuda, Stream&);

}  // namespace tpo
