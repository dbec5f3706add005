#pragma once
// Permutations of elements of 2 or 4 bytes. Memory-bound: every byte is read once and written once.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// y[c,r] = x[r,c]
struct Transpose {
  static constexpr const char* kName = "transpose";
  const void* x;  // (rows, cols)
  void* y;        // (cols, rows)
  int64_t rows, cols;
  DType dtype;
  Cost cost() const { return {0, width_of(dtype) * rows * cols, width_of(dtype) * rows * cols}; }
};
void run(const Transpose&, Cpu, Stream&);
void run(const Transpose&, Cuda, Stream&);

// Cuts images (I, T, H, W, C) into patches of t x p x p:
//   y[((i T/t + a) H/p + b) W/p + d, ((e p + f) p + g) C + c] = x[i, a t + e, b p + f, d p + g, c]
// inverse: x and y exchange their roles, patches become images. Requires: t divides T, p divides H and W.
struct Patchify {
  static constexpr const char* kName = "patchify";
  const void* src;
  void* dst;
  int64_t images, frames, height, width, channels, tubelet, patch;
  bool inverse;
  DType dtype;
  int64_t nbytes() const { return images * frames * height * width * channels * width_of(dtype); }
  Cost cost() const { return {0, nbytes(), nbytes()}; }
};
void run(const Patchify&, Cpu, Stream&);
void run(const Patchify&, Cuda, Stream&);

}  // namespace tpo
