#include "data/picture_views.h"

#include <algorithm>

#include "core/error.h"

namespace tpo {

ImageSize size_for_views(const PictureSize& picture, const PictureTiling& tiling) {
  const ShownPart part = shown_part(picture, tiling.grid(picture), tiling.tile);
  return {static_cast<int>(std::max(part.width, tiling.tile)), static_cast<int>(std::max(part.height, tiling.tile))};
}

void fill_views(const Image& image, const PictureSize& picture, const PictureTiling& tiling, std::span<float> out,
                const PixelScale& scale) {
  const TileGrid grid = tiling.grid(picture);
  const ShownPart part = shown_part(picture, grid, tiling.tile);
  const int64_t side = tiling.tile, view = side * side * 3;
  check_shape(static_cast<int64_t>(out.size()) == (1 + grid.tiles()) * view, "[fill_views] ", out.size(),
              " floats for ", 1 + grid.tiles(), " views of ", side, " x ", side, " x 3");
  resize_normalised(image, static_cast<int>(side), static_cast<int>(side), out.first(static_cast<size_t>(view)), scale);
  const std::vector<float> shown = resize_float(image, static_cast<int>(part.width), static_cast<int>(part.height));
  float* to = out.data() + view;
  for (int64_t tile = 0; tile < grid.tiles(); ++tile) {
    const int64_t top = tile / grid.columns * side - part.top, left = tile % grid.columns * side - part.left;
    for (int64_t y = top; y < top + side; ++y) {
      for (int64_t x = left; x < left + side; ++x, to += 3) {
        const bool inside = y >= 0 && y < part.height && x >= 0 && x < part.width;
        const float* from = inside ? shown.data() + (y * part.width + x) * 3 : nullptr;
        for (size_t c = 0; c < 3; ++c) to[c] = ((inside ? from[c] / 255.0f : 0) - scale.mean[c]) / scale.std[c];
      }
    }
  }
}

}  // namespace tpo
