#include <cmath>

#include "core/kernels/adamw.h"
#include "core/kernels/pointwise_loop.h"
#include "core/stream.h"

namespace tpo {

void run(const AdamW& k, Cpu, Stream&) {
  for_elements(k.n, kHeavyGrain, [&](int64_t begin, int64_t end) {
    float *param = k.param, *m = k.m, *v = k.v;
    const float* grad = k.grad;
    // Copies in registers: the stores below could otherwise change the fields of k.
    const float scale = k.grad_scale, beta1 = k.beta1, beta2 = k.beta2, fresh1 = 1.0f - beta1, fresh2 = 1.0f - beta2;
    const float decay = k.decay_factor, step = k.step_size, root = k.inverse_root2, eps = k.eps;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const float g = scale * grad[i];
      const float first = beta1 * m[i] + fresh1 * g;
      const float second = beta2 * v[i] + fresh2 * g * g;
      m[i] = first;
      v[i] = second;
      param[i] = decay * param[i] - step * first / (std::sqrt(second) * root + eps);
    }
  });
}

}  // namespace tpo
