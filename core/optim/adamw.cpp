#include "core/optim/adamw.h"

#include <cmath>

#include "core/kernels/adamw.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

void adamw_step(Tensor& param, const Tensor& grad, Tensor& m, Tensor& v, const AdamWParams& p, int64_t step) {
  check_f32("adamw", param, "param");
  check_f32("adamw", grad, "grad");
  check_f32("adamw", m, "m");
  check_f32("adamw", v, "v");
  const int64_t n = param.numel();
  check_shape(grad.numel() == n && m.numel() == n && v.numel() == n, "[adamw] lengths differ: param ", param.shape(),
              ", grad ", grad.shape(), ", m ", m.shape(), ", v ", v.shape());
  check<ConfigError>(step >= 1, "[adamw] step is ", step, ", counts from 1");
  check<ConfigError>(p.beta1 >= 0 && p.beta1 < 1 && p.beta2 >= 0 && p.beta2 < 1, "[adamw] beta1 ", p.beta1,
                     " and beta2 ", p.beta2, " must be in [0, 1)");
  check<ConfigError>(p.lr >= 0 && p.eps > 0 && p.weight_decay >= 0, "[adamw] lr ", p.lr, " and weight_decay ",
                     p.weight_decay, " must be at least 0, eps ", p.eps, " above 0");
  const double t = static_cast<double>(step), lr = static_cast<double>(p.lr);
  const double rest1 = 1 - std::pow(static_cast<double>(p.beta1), t);
  const double rest2 = 1 - std::pow(static_cast<double>(p.beta2), t);
  launch(AdamW{f32(param), f32(grad), f32(m), f32(v), n, p.grad_scale, p.beta1, p.beta2, p.eps,
               static_cast<float>(1 - lr * static_cast<double>(p.weight_decay)), static_cast<float>(lr / rest1),
               static_cast<float>(1 / std::sqrt(rest2))});
}

}  // namespace tpo
