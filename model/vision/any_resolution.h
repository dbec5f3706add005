#pragma once
// The views of a picture of any size (core/tile_layout.h) as tensors: what data/picture_views.h does to decoded files.
#include "core/tensor.h"
#include "core/tile_layout.h"

namespace tpo {

// The views of a picture: picture (1, H, W, 3) f32 in 0..1 on the host -> (1 + tiles, 1, tile, tile, 3) in 0..1, base
// first, tiles row by row. Resized bicubically with antialias, across and then down, clamped after either: the pixels
// of Pillow 11 but for its rounding to 8 bits after either pass, which is 1.2 of 255 levels at most. Not recorded.
// Throws ShapeError.
Tensor cut_views(const Tensor& picture, int64_t tile, const TilingConfig& config);

}  // namespace tpo
