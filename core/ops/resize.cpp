#include "core/ops/resize.h"

#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

Tensor resample(const char* op, const Tensor& x, const ResampleAxis& h, const ResampleAxis& w) {
  Tensor y = Tensor::empty({x.dim(0), h.out, w.out, x.dim(3)}, x.dtype());
  const Resample k{raw(x), raw(y), x.dim(0), x.dim(3), h, w, false, x.dtype(), x.dtype()};
  launch(k);
  record(op, {x}, {&y}, [k](std::span<const Tensor> dy, GradSink& dx) {
    const GradDest d = dx.destination(0);  // a table of positions is a leaf: its gradient is fp32
    const Tensor gx = d.accumulate ? empty_like(d.grad) : d.grad;
    Resample back = k;
    back.x = raw(dy[0]), back.y = raw(gx), back.adjoint = true, back.out_dtype = gx.dtype();
    launch(back);
    if (d.accumulate) launch(Cast{raw(gx), raw(d.grad), gx.numel(), gx.dtype(), d.grad.dtype(), true});
  });
  return y;
}

Tensor resize(const Tensor& x, int64_t height, int64_t width, const ResizeSpec& spec) {
  check_float("resize", x, "x");
  check_shape(x.rank() == 4 && x.dim(1) >= 1 && x.dim(2) >= 1, "[resize] x ", x.shape(),
              " must be (B, H, W, C) with H and W at least 1");
  check_shape(height >= 1 && width >= 1, "[resize] to ", height, " x ", width, ", must be at least 1 x 1");
  check_shape(spec.mode != ResizeMode::kNearest || (!spec.align_corners && !spec.antialias),
              "[resize] align_corners and antialias are not defined for nearest");
  const ResampleKind kind = spec.mode == ResizeMode::kNearest    ? ResampleKind::kNearest
                            : spec.mode == ResizeMode::kBilinear ? ResampleKind::kBilinear
                                                                 : ResampleKind::kBicubic;
  const ResampleAxis h{x.dim(1), height, kind, spec.align_corners, spec.antialias};
  const ResampleAxis w{x.dim(2), width, kind, spec.align_corners, spec.antialias};
  return resample("resize", x, h, w);
}

}  // namespace tpo
