#include "core/ops/pool.h"

#include "core/kernels/pool.h"
#include "core/launch.h"
#include "core/ops/op_util.h"
#include "core/ops/resize.h"

namespace tpo {

namespace {

void check_pool(const char* op, const Tensor& x, const PoolSpec& s) {
  check_float(op, x, "x");
  check_shape(x.rank() == 4, "[", op, "] x ", x.shape(), " must be (B, H, W, C)");
  for (int axis : {0, 1}) {
    const auto a = static_cast<size_t>(axis);
    check_shape(s.kernel[a] >= 1 && s.stride[a] >= 1, "[", op, "] kernel ", s.kernel[a], " and stride ", s.stride[a],
                " must be at least 1");
    check_shape(s.padding[a] >= 0 && 2 * s.padding[a] <= s.kernel[a], "[", op, "] padding ", s.padding[a],
                " must be at most half the kernel ", s.kernel[a]);
    check_shape(x.dim(1 + axis) >= 1 && pooled_size(s, axis, x.dim(1 + axis)) >= 1, "[", op, "] x ", x.shape(),
                " is smaller than the kernel ", s.kernel[a]);
  }
}

PoolAxis axis_of(const PoolSpec& s, int axis, int64_t in) {
  const auto a = static_cast<size_t>(axis);
  return {in, pooled_size(s, axis, in), s.kernel[a], s.stride[a], s.padding[a]};
}

ResampleAxis box(const PoolAxis& a, bool include_padding) {
  return {a.in, a.out, ResampleKind::kBox, false, false, a.kernel, a.stride, a.padding, include_padding};
}

}  // namespace

int64_t pooled_size(const PoolSpec& spec, int axis, int64_t in) {
  const auto a = static_cast<size_t>(axis);
  const int64_t room = in + 2 * spec.padding[a] - spec.kernel[a] + (spec.ceil_mode ? spec.stride[a] - 1 : 0);
  if (room < 0) return 0;
  const int64_t out = room / spec.stride[a] + 1;
  return (out - 1) * spec.stride[a] >= in + spec.padding[a] ? out - 1 : out;
}

Tensor max_pool2d(const Tensor& x, const PoolSpec& spec) {
  check_pool("max_pool2d", x, spec);
  check_shape(spec.kernel[0] * spec.kernel[1] <= 256, "[max_pool2d] kernel ", spec.kernel[0], " x ", spec.kernel[1],
              " has more than 256 elements");
  const PoolAxis h = axis_of(spec, 0, x.dim(1)), w = axis_of(spec, 1, x.dim(2));
  Tensor y = Tensor::empty({x.dim(0), h.out, w.out, x.dim(3)}, x.dtype()), place;
  if (any_wants_grad({x})) place = Tensor::empty(y.shape(), DType::kU8);
  launch(MaxPoolFwd{raw(x), raw(y), static_cast<uint8_t*>(raw(place)), x.dim(0), x.dim(3), h, w, x.dtype()});
  record("max_pool2d", {x}, {&y}, [place, h, w, shape = x.shape()](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = Tensor::empty(shape, dy[0].dtype());
    const auto* at = static_cast<const uint8_t*>(raw(place));
    launch(MaxPoolBwd{raw(dy[0]), at, raw(gx), shape[0], shape[3], h, w, gx.dtype()});
    dx.add(0, gx);
  });
  return y;
}

Tensor avg_pool2d(const Tensor& x, const PoolSpec& spec, bool count_include_pad) {
  check_pool("avg_pool2d", x, spec);
  return resample("avg_pool2d", x, box(axis_of(spec, 0, x.dim(1)), count_include_pad),
                  box(axis_of(spec, 1, x.dim(2)), count_include_pad));
}

}  // namespace tpo
