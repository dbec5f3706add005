#include "model/vision/any_resolution.h"

#include <cstring>

#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/ops/resize.h"
#include "core/ops/window.h"

namespace tpo {

Tensor cut_views(const Tensor& picture, int64_t tile, const TilingConfig& config) {
  check_shape(picture.rank() == 4 && picture.dim(0) == 1 && picture.dim(3) == 3, "[cut_views] picture ",
              picture.shape(), " must be (1, H, W, 3)");
  const NoGradScope no_grad;
  const PictureSize size{picture.dim(2), picture.dim(1)};
  const TileGrid grid = best_tile_grid(size, tile, config);
  // Cubic weights overshoot: clamped after either pass, as Pillow's 8 bits are.
  const auto resized = [&](int64_t height, int64_t width) {
    const ResizeSpec cubic{.mode = ResizeMode::kBicubic, .antialias = true};
    return clamp(resize(clamp(resize(picture, size.height, width, cubic), 0, 1), height, width, cubic), 0, 1);
  };
  const ShownPart part = shown_part(size, grid, tile);
  const int64_t width = grid.columns * tile;
  const Tensor shown = resized(part.height, part.width), canvas = Tensor::zeros({1, grid.rows * tile, width, 3});
  const float* from = shown.data<float>();
  float* to = canvas.data<float>() + (part.top * width + part.left) * 3;
  for (int64_t y = 0; y < part.height; ++y)
    std::memcpy(to + y * width * 3, from + y * part.width * 3, static_cast<size_t>(part.width) * 3 * sizeof(float));
  return concat_rows({resized(tile, tile), window_partition(canvas, tile)}).view({1 + grid.tiles(), 1, tile, tile, 3});
}

}  // namespace tpo
