#include "core/ops/window.h"

#include "core/kernels/window.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

Tensor rearrange(const char* op, const Tensor& x, const Shape& out, Window k) {
  Tensor y = Tensor::empty(out, x.dtype());
  k.src = raw(x), k.dst = raw(y), k.dtype = x.dtype();
  launch(k);
  record(op, {x}, {&y}, [k, shape = x.shape()](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = Tensor::empty(shape, k.dtype);
    Window back = k;
    back.src = raw(dy[0]), back.dst = raw(gx), back.inverse = !k.inverse;
    launch(back);
    dx.add(0, gx);
  });
  return y;
}

}  // namespace

Tensor window_partition(const Tensor& x, int64_t w) {
  check_float("window_partition", x, "x");
  check_shape(w >= 1 && x.rank() == 4 && x.dim(1) >= 1 && x.dim(2) >= 1, "[window_partition] x ", x.shape(),
              " must be (B, H, W, C) with H and W at least 1, window ", w, " at least 1");
  const Window k{nullptr, nullptr, x.dim(0), x.dim(1), x.dim(2), x.dim(3), w, false, x.dtype()};
  return rearrange("window_partition", x, {x.dim(0) * k.down() * k.across(), w, w, x.dim(3)}, k);
}

Tensor window_merge(const Tensor& windows, int64_t height, int64_t width) {
  check_float("window_merge", windows, "windows");
  const Shape& s = windows.shape();
  check_shape(s.rank() == 4 && s[1] == s[2] && s[1] >= 1, "[window_merge] windows ", s, " must be (N, w, w, C)");
  check_shape(height >= 1 && width >= 1, "[window_merge] to ", height, " x ", width, ", must be at least 1 x 1");
  Window k{nullptr, nullptr, 1, height, width, s[3], s[1], true, windows.dtype()};
  const int64_t per_image = k.down() * k.across();
  check_shape(s[0] % per_image == 0, "[window_merge] ", s[0], " windows of ", s, " are no whole images of ", per_image,
              " each (", height, " x ", width, ")");
  k.images = s[0] / per_image;
  return rearrange("window_merge", windows, {k.images, height, width, s[3]}, k);
}

}  // namespace tpo
