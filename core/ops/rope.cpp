#include "core/ops/rope.h"

#include "core/kernels/rope.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

template <class Kernel>
Tensor turn(const char* op, const Tensor& x, const Tensor& positions, int64_t heads, float theta) {
  check_shape(theta > 0, "[", op, "] theta ", theta, " must be positive");
  Kernel k{raw(x), i32(positions), nullptr, x.dim(0), heads, x.dim(1) / heads, theta, false, x.dtype()};
  Tensor y = empty_like(x);
  k.y = raw(y);
  launch(k);
  record(op, {x}, {&y}, [k, positions = positions.detach()](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor g = reuse(dy[0]);
    Kernel turn_back = k;
    turn_back.x = raw(dy[0]), turn_back.y = raw(g), turn_back.inverse = true;
    launch(turn_back);
    dx.add(0, g);
  });
  return y;
}

}  // namespace

Tensor rope(const Tensor& x, const Tensor& positions, int64_t heads, float theta) {
  check_float("rope", x, "x");
  check_i32_vector("rope", positions, "positions");
  check_shape(x.rank() == 2 && heads >= 1 && x.dim(1) % (2 * heads) == 0 && positions.dim(0) == x.dim(0), "[rope] x ",
              x.shape(), " must be (N, heads*D) with even D for heads ", heads, " and positions ", positions.shape(),
              " must be (N)");
  return turn<Rope>("rope", x, positions, heads, theta);
}

Tensor rope_2d(const Tensor& x, const Tensor& positions, int64_t heads, float theta) {
  check_float("rope_2d", x, "x");
  check_shape(positions.defined() && positions.dtype() == DType::kI32, "[rope_2d] positions must be i32");
  check_shape(x.rank() == 2 && heads >= 1 && x.dim(1) % (4 * heads) == 0 && positions.shape() == Shape{x.dim(0), 2},
              "[rope_2d] x ", x.shape(), " must be (N, heads*D) with D divisible by 4 for heads ", heads,
              " and positions ", positions.shape(), " must be (N, 2)");
  return turn<Rope2d>("rope_2d", x, positions, heads, theta);
}

}  // namespace tpo
