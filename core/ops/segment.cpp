#include "core/ops/segment.h"

#include "core/kernels/segment.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

void check_packed(const char* op, const Tensor& x, const Tensor& cu) {
  check_float(op, x, "x");
  check_i32_vector(op, cu, "cu");
  check_shape(x.rank() == 2 && cu.dim(0) >= 1, "[", op, "] x ", x.shape(), " must be (N, C) and cu ", cu.shape(),
              " (S + 1)");
  if (cu.device() != Device::kCpu) return;
  const int32_t* p = cu.data<int32_t>();
  const int64_t S = cu.dim(0) - 1;
  check<DataError>(p[0] == 0 && p[S] == x.dim(0), "[", op, "] cu runs from ", p[0], " to ", p[S],
                   ", must run from 0 to ", x.dim(0));
  for (int64_t s = 0; s < S; ++s)
    check<DataError>(p[s] <= p[s + 1], "[", op, "] cu[", s + 1, "] = ", p[s + 1], " is below its predecessor ", p[s]);
}

Tensor segment_total(const char* op, const Tensor& x, const Tensor& cu, bool mean) {
  check_packed(op, x, cu);
  const int64_t N = x.dim(0), C = x.dim(1), S = cu.dim(0) - 1;
  Tensor y = Tensor::empty({S, C}, x.dtype());
  launch(SegmentSumFwd{raw(x), i32(cu), raw(y), S, N, C, mean, x.dtype()});
  record(op, {x}, {&y}, [cu = cu.detach(), S, N, C, mean](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor g = Tensor::empty({N, C}, dy[0].dtype());
    launch(SegmentSumBwd{raw(dy[0]), i32(cu), raw(g), S, N, C, mean, g.dtype()});
    dx.add(0, g);
  });
  return y;
}

// x seen as (outer, length, inner), summed along the middle.
Tensor cumulate(const char* op, const Tensor& x, int64_t outer, int64_t length, int64_t inner, Cumulate kind) {
  const bool exclusive = kind == Cumulate::kExclusive;
  Tensor y = empty_like(x);
  launch(CumSum{raw(x), raw(y), outer, length, inner, exclusive, false, x.dtype()});
  record(op, {x}, {&y}, [=](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor g = reuse(dy[0]);
    launch(CumSum{raw(dy[0]), raw(g), outer, length, inner, exclusive, true, g.dtype()});
    dx.add(0, g);
  });
  return y;
}

}  // namespace

Tensor segment_sum(const Tensor& x, const Tensor& cu) { return segment_total("segment_sum", x, cu, false); }

Tensor segment_mean(const Tensor& x, const Tensor& cu) { return segment_total("segment_mean", x, cu, true); }

Tensor segment_max(const Tensor& x, const Tensor& cu) {
  check_packed("segment_max", x, cu);
  const int64_t N = x.dim(0), C = x.dim(1), S = cu.dim(0) - 1;
  Tensor y = Tensor::empty({S, C}, x.dtype());
  const Tensor at = Tensor::empty({S, C}, DType::kI32);
  launch(SegmentMaxFwd{raw(x), i32(cu), raw(y), static_cast<int32_t*>(raw(at)), S, N, C, x.dtype()});
  record("segment_max", {x}, {&y}, [cu = cu.detach(), at, S, N, C](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor g = Tensor::empty({N, C}, dy[0].dtype());
    launch(SegmentMaxBwd{raw(dy[0]), i32(at), i32(cu), raw(g), S, N, C, g.dtype()});
    dx.add(0, g);
  });
  return y;
}

Tensor cumsum_last(const Tensor& x, Cumulate kind) {
  check_float("cumsum_last", x, "x");
  return cumulate("cumsum_last", x, rows_of(x), last_dim(x), 1, kind);
}

Tensor cumsum_rows(const Tensor& x, Cumulate kind) {
  check_float("cumsum_rows", x, "x");
  check_shape(x.rank() >= 1, "[cumsum_rows] x is a scalar");
  const int64_t R = x.dim(0);
  return cumulate("cumsum_rows", x, 1, R, R == 0 ? 0 : x.numel() / R, kind);
}

}  // namespace tpo
