#include "core/ops/position.h"

#include "core/kernels/position.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

void check_sine(const char* op, int64_t height, int64_t width, const SineSpec& s, DType dtype) {
  check_shape(height >= 1 && width >= 1, "[", op, "] of ", height, " x ", width, " positions, must be at least 1 x 1");
  check_shape(s.features >= 2 && s.features % 2 == 0, "[", op, "] features ", s.features, " must be even");
  check_shape(s.temperature > 0 && s.first >= 0, "[", op, "] temperature ", s.temperature, " must be positive, first ",
              s.first, " not negative");
  check_shape(is_float(dtype), "[", op, "] dtype is ", dtype, ", must be f32 or bf16");
}

}  // namespace

Tensor sine_encoding(int64_t length, const SineSpec& spec, DType dtype) {
  check_sine("sine_encoding", 1, length, spec, dtype);
  const Tensor y = Tensor::empty({length, spec.features}, dtype);
  launch(SineEncoding{raw(y), 0, length, spec.features, spec.temperature, spec.first, spec.unit_scale, dtype});
  record_data("sine_encoding");
  return y;
}

Tensor sine_encoding_2d(int64_t height, int64_t width, const SineSpec& spec, DType dtype) {
  check_sine("sine_encoding_2d", height, width, spec, dtype);
  const Tensor y = Tensor::empty({height, width, 2 * spec.features}, dtype);
  launch(SineEncoding{raw(y), height, width, spec.features, spec.temperature, spec.first, spec.unit_scale, dtype});
  record_data("sine_encoding_2d");
  return y;
}

Tensor fourier_encoding(const Tensor& points, const Tensor& frequencies) {
  check_f32("fourier_encoding", points, "points");
  check_f32("fourier_encoding", frequencies, "frequencies");
  check_shape(points.rank() == 2 && frequencies.rank() == 2 && points.dim(1) == frequencies.dim(0),
              "[fourier_encoding] points ", points.shape(), " must be (N, D) and frequencies ", frequencies.shape(),
              " (D, F)");
  const int64_t N = points.dim(0), F = frequencies.dim(1);
  const Tensor y = Tensor::empty({N, 2 * F});
  launch(FourierEncoding{f32(points), f32(frequencies), f32(y), N, points.dim(1), F});
  record_data("fourier_encoding");
  return y;
}

}  // namespace tpo
