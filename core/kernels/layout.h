#pragma once
// Permutations of 32-bit elements. Memory-bound: every byte is read once and written once.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

// y[c,r] = x[r,c]
struct Transpose {
  static constexpr const char* kName = "transpose";
  const float* x;  // (rows, cols)
  float* y;        // (cols, rows)
  int64_t rows, cols;
  Cost cost() const { return {0, 4 * rows * cols, 4 * rows * cols}; }
};
void run(const Transpose&, Cpu, Stream&);
void run(const Transpose&, Cuda, Stream&);

// Cuts images (I, T, H, W, C) into patches of t x p x p:
//   y[((i T/t + a) H/p + b) W/p + d, ((e p + f) p + g) C + c] = x[i, a t + e, b p + f, d p + g, c]
// inverse: x and y exchange their roles, patches become images. Requires: t divides T, p divides H and W.
struct Patchify {
  static constexpr const char* kName = "patchify";
  const float* src;
  float* dst;
  int64_t images, frames, height, width, channels, tubelet, patch;
  bool inverse;
  int64_t numel() const { return images * frames * height * width * channels; }
  Cost cost() const { return {0, 4 * numel(), 4 * numel()}; }
};
void run(const Patchify&, Cpu, Stream&);
void run(const Patchify&, Cuda, Stream&);

}  // namespace tpo
