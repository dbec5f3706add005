#pragma once
// The views that an encoder sees of a picture of any size: the base picture and the tiles of core/tile_layout.h.
#include <span>

#include "core/tile_layout.h"
#include "data/decode/image.h"

namespace tpo {

// The least size that a picture may be decoded at for its views: that of the larger of both resizings.
ImageSize size_for_views(const PictureSize& picture, const PictureTiling& tiling);

// out (1 + tiles, tile, tile, 3) = (pixel / 255 - mean) / std, base first, tiles row by row; black edges are pixels 0.
// `picture` is the size that decides the layout: that of `image` before it was decoded smaller. Resized as all pictures
// here are (resize_float): the pixels of cut_views in model/vision/any_resolution.h. Throws ShapeError if out has
// another size.
void fill_views(const Image& image, const PictureSize& picture, const PictureTiling& tiling, std::span<float> out,
                const PixelScale& scale);

}  // namespace tpo
