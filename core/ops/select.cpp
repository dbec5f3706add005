#include "core/ops/select.h"

#include "core/kernels/select.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

void check_mask(const char* op, const Tensor& mask, const Tensor& x) {
  check_shape(mask.defined() && mask.dtype() == DType::kU8 && mask.shape() == x.shape(), "[", op,
              "] mask must be u8 of the shape of the operands, ", x.shape());
}

// mask ? a : b into y, an undefined operand being `value`.
Tensor select(const Tensor& mask, const Tensor& a, const Tensor& b, const Tensor& y, float value = 0) {
  launch(Select{static_cast<const uint8_t*>(raw(mask)), raw(a), raw(b), raw(y), y.numel(), value, y.dtype()});
  return y;
}

}  // namespace

Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b) {
  check_float("where", a, "a");
  check_like("where", b, "b", a);
  check_shape(a.shape() == b.shape(), "[where] shapes differ: ", a.shape(), " and ", b.shape());
  check_mask("where", mask, a);
  Tensor y = select(mask, a, b, empty_like(a));
  record("where", {a, b}, {&y}, [mask = mask.detach()](std::span<const Tensor> dy, GradSink& dx) {
    if (dx.wants(0)) dx.add(0, select(mask, dy[0], {}, empty_like(dy[0])));
    if (dx.wants(1)) dx.add(1, select(mask, {}, dy[0], reuse(dy[0])));
  });
  return y;
}

Tensor masked_fill(const Tensor& x, const Tensor& mask, float value) {
  check_float("masked_fill", x, "x");
  check_mask("masked_fill", mask, x);
  Tensor y = select(mask, {}, x, empty_like(x), value);
  record("masked_fill", {x}, {&y}, [mask = mask.detach()](std::span<const Tensor> dy, GradSink& dx) {
    dx.add(0, select(mask, {}, dy[0], reuse(dy[0])));
  });
  return y;
}

}  // namespace tpo
