#include "core/optim/clip.h"

#include "core/kernels/pointwise.h"
#include "core/kernels/reduce.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

double grad_sum_squares(const Tensor& flat) {
  check_f32("grad_sum_squares", flat, "buffer");
  double sum = 0;
  launch(SumSquares{f32(flat), &sum, flat.numel()});
  return sum;
}

int64_t count_non_finite(const Tensor& flat) {
  check_f32("count_non_finite", flat, "buffer");
  int64_t count = 0;
  launch(CountNonFinite{f32(flat), &count, flat.numel()});
  return count;
}

bool check_finite(const Tensor& flat) { return count_non_finite(flat) == 0; }

void scale_(Tensor& flat, float alpha) {
  check_f32("scale_", flat, "buffer");
  launch(Scale{f32(flat), f32(flat), flat.numel(), alpha, DType::kF32});
}

double clip_factor(double norm, double max_norm) {
  if (max_norm <= 0 || norm <= max_norm) return 1.0;
  return max_norm / norm;
}

}  // namespace tpo
