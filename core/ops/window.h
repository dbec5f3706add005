#pragma once
// Images cut into windows for window attention, and put together again, as in ViTDet, SAM and Hiera. f32 or bf16.
// Nothing is saved; each is the other's gradient. Both throw ShapeError.
#include "core/tape.h"

namespace tpo {

// Cuts images into windows of w x w pixels; images whose size is no multiple of w are padded with zeros at the bottom
// and at the right.
//   x (B, H, W, C), H and W at least 1 -> (B * ceil(H/w) * ceil(W/w), w, w, C), windows in the order (image, row,
//   column)
Tensor window_partition(const Tensor& x, int64_t w);

// The inverse: images of height x width from their windows; what was padding is dropped.
//   windows (B * ceil(height/w) * ceil(width/w), w, w, C) -> (B, height, width, C)
Tensor window_merge(const Tensor& windows, int64_t height, int64_t width);

}  // namespace tpo
