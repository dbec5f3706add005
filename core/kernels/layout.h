#pragma once
// Permutations of elements of 2 or 4 bytes. Memory-bound: every byte is read once and written once.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// y[b,c,r] = x[b,r,c]
struct Transpose {
  static constexpr const char* kName = "transpose";
  const void* x;  // (batch, rows, cols)
  void* y;        // (batch, cols, rows)
  int64_t batch, rows, cols;
  DType dtype;
  int64_t nbytes() const { return batch * rows * cols * width_of(dtype); }
  Cost cost() const { return {0, nbytes(), nbytes()}; }
};
void run(const Transpose&, Cpu, Stream&);
void run(const Transpose&, Cuda, Stream&);

// y[a,c,b] = x[a,b,c], each a run of `run_bytes`
struct SwapMiddle {
  static constexpr const char* kName = "swap_middle";
  const void* x;  // (a, b, c, run)
  void* y;        // (a, c, b, run)
  int64_t a, b, c, run_bytes;
  Cost cost() const { return {0, a * b * c * run_bytes, a * b * c * run_bytes}; }
};
void run(const SwapMiddle&, Cpu, Stream&);
void run(const SwapMiddle&, Cuda, Stream&);

// Copies a column of blocks: dst[r dst_row + i] = src[r src_row + i] for i < bytes, zeros if src is null.
struct CopyColumns {
  static constexpr const char* kName = "copy_columns";
  const void* src;
  void* dst;
  int64_t rows, bytes, src_row, dst_row;  // distances of rows in bytes
  Cost cost() const { return {0, src ? rows * bytes : 0, rows * bytes}; }
};
void run(const CopyColumns&, Cpu, Stream&);
void run(const CopyColumns&, Cuda, Stream&);

// Cuts images (I, T, H, W, C) into patches of t x p x p:
//   y[((i T/t + a) H/p + b) W/p + d, ((e p + f) p + g) C + c] = x[i, a t + e, b p + f, d p + g, c]
// with H/p and W/p rounded down. inverse: x and y exchange their roles, patches become images, whose pixels outside of
// all patches become 0. Requires: t divides T.
struct Patchify {
  static constexpr const char* kName = "patchify";
  const void* src;
  void* dst;
  int64_t images, frames, height, width, channels, tubelet, patch;
  bool inverse;
  DType dtype;
  int64_t image_bytes() const { return images * frames * height * width * channels * width_of(dtype); }
  int64_t patch_bytes() const {
    return images * frames * (height / patch * patch) * (width / patch * patch) * channels * width_of(dtype);
  }
  Cost cost() const { return {0, patch_bytes(), inverse ? image_bytes() : patch_bytes()}; }
};
void run(const Patchify&, Cpu, Stream&);
void run(const Patchify&, Cuda, Stream&);

}  // namespace tpo
