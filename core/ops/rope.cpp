#include "core/ops/rope.h"

#include "core/kernels/rope.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

Tensor rope(const Tensor& x, const Tensor& positions, int64_t heads, float theta) {
  check_f32("rope", x, "x");
  check_i32_vector("rope", positions, "positions");
  check_shape(x.rank() == 2 && heads >= 1 && x.dim(1) % (2 * heads) == 0 && positions.dim(0) == x.dim(0), "[rope] x ",
              x.shape(), " must be (N, heads*D) with even D for heads ", heads, " and positions ", positions.shape(),
              " must be (N)");
  check_shape(theta > 0, "[rope] theta ", theta, " must be positive");
  Rope k{f32(x), i32(positions), nullptr, x.dim(0), heads, x.dim(1) / heads, theta, false};
  Tensor y = empty_like(x);
  k.y = f32(y);
  launch(k);
  record("rope", {x}, {&y}, [k, positions = positions.detach()](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor g = reuse(dy[0]);
    Rope turn_back = k;
    turn_back.x = f32(dy[0]), turn_back.y = f32(g), turn_back.inverse = true;
    launch(turn_back);
    dx.add(0, g);
  });
  return y;
}

}  // namespace tpo
