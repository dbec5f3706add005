#pragma once
// Images cut into square windows. Memory-bound: a copy of runs of contiguous pixels.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// With nh = ceil(H/w), nw = ceil(W/w), for every pixel of the padded image (nh w, nw w):
//   windows[((b nh + i/w) nw + j/w), i % w, j % w, c] = image[b, i, j, c], 0 where the image has no such pixel.
// inverse: the pixels of the image from the windows.
struct Window {
  static constexpr const char* kName = "window";
  const void* src;
  void* dst;
  int64_t images, height, width, channels, window;
  bool inverse;
  DType dtype;
  int64_t down() const { return (height + window - 1) / window; }
  int64_t across() const { return (width + window - 1) / window; }
  int64_t pixels() const { return images * height * width; }
  int64_t padded() const { return images * down() * across() * window * window; }
  Cost cost() const {
    const int64_t bytes = width_of(dtype) * channels;
    return {0, bytes * pixels(), bytes * (inverse ? pixels() : padded())};
  }
};
void run(const Window&, Cpu, Stream&);
void run(const Window&, Cuda, Stream&);

}  // namespace tpo
