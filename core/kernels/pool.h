#pragma once
// Max pooling of images. Memory-bound. Average pooling is a resampling: kernels/resample.h.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// One axis: output o sees the inputs [o stride - padding, o stride - padding + kernel) that exist.
struct PoolAxis {
  int64_t in, out, kernel, stride, padding;
};

// y[b,o,p,c] = max over the window of x[b,i,j,c]; NaN if one is NaN.
struct MaxPoolFwd {
  static constexpr const char* kName = "max_pool_fwd";
  const void* x;   // (images, h.in, w.in, channels)
  void* y;         // (images, h.out, w.out, channels)
  uint8_t* place;  // (images, h.out, w.out, channels): the maximum's place in the window, row by row; null: not kept
  int64_t images, channels;
  PoolAxis h, w;
  DType dtype;
  int64_t inputs() const { return images * h.in * w.in * channels; }
  int64_t outputs() const { return images * h.out * w.out * channels; }
  Cost cost() const {
    return {(h.kernel * w.kernel - 1) * outputs(), width_of(dtype) * inputs(),
            (width_of(dtype) + (place != nullptr ? 1 : 0)) * outputs()};
  }
};
void run(const MaxPoolFwd&, Cpu, Stream&);
void run(const MaxPoolFwd&, Cuda, Stream&);

// dx[b,i,j,c] = sum of dy over the windows whose maximum is at (i, j), in their order.
struct MaxPoolBwd {
  static constexpr const char* kName = "max_pool_bwd";
  const void* dy;        // (images, h.out, w.out, channels)
  const uint8_t* place;  // (images, h.out, w.out, channels)
  void* dx;              // (images, h.in, w.in, channels)
  int64_t images, channels;
  PoolAxis h, w;
  DType dtype;
  int64_t inputs() const { return images * h.in * w.in * channels; }
  int64_t outputs() const { return images * h.out * w.out * channels; }
  Cost cost() const {
    return {2 * h.kernel * w.kernel * outputs(), (width_of(dtype) + 1) * outputs(), width_of(dtype) * inputs()};
  }
};
void run(const MaxPoolBwd&, Cpu, Stream&);
void run(const MaxPoolBwd&, Cuda, Stream&);

}  // namespace tpo
