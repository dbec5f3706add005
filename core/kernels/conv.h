#pragma once
// Products over sliding windows of channels-last images: what a convolution, its adjoint (the transposed convolution)
// and the gradient of their common weight are made of. Compute-bound: each is a product (gemm.h) over rows =
// positions of the map and columns = (ky, kx, c) of the window, gathered tile by tile.
//
//   image  (batch, h.image, w.image, channels)     the larger side: input of conv2d, result of conv_transpose2d
//   map    (batch, h.out, w.out, out_channels)     one position per window
//   w      (out_channels, h.kernel, w.kernel, channels)
//   window of (oy, ox): image rows oy * h.stride - h.pad + ky, columns ox * w.stride - w.pad + kx, zero outside
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// One of the two dims. Image positions i with (i + pad) % stride == a are phase a: all of them see kernel elements
// a, a + stride, .. only, so that the adjoint restricted to a phase is a convolution with stride 1.
struct ConvAxis {
  int64_t image, kernel, stride, pad, out;
  int64_t taps(int64_t phase) const { return phase < kernel ? (kernel - phase + stride - 1) / stride : 0; }
  int64_t first(int64_t phase) const { return ((phase - pad) % stride + stride) % stride; }
  int64_t count(int64_t phase) const { return first(phase) < image ? (image - first(phase) - 1) / stride + 1 : 0; }
  // Pairs of an image position and a kernel element of its phase.
  int64_t pairs() const {
    int64_t n = 0;
    for (int64_t a = 0; a < stride; ++a) n += taps(a) * count(a);
    return n;
  }
  // Windows that cover the image without overlap.
  bool tiles() const { return kernel == stride && pad == 0 && image == out * stride; }
};

struct ConvShape {
  int64_t batch, channels, out_channels;
  ConvAxis h, w;
  int64_t rows() const { return batch * h.out * w.out; }
  int64_t depth() const { return h.kernel * w.kernel * channels; }
  int64_t image_numel() const { return batch * h.image * w.image * channels; }
  int64_t map_numel() const { return rows() * out_channels; }
  int64_t weight_numel() const { return out_channels * depth(); }
  bool tiles() const { return h.tiles() && w.tiles(); }
};

// map[r,o] (+)= bias[o] + sum_k window[r,k] w[o,k]
struct ConvWindows {
  static constexpr const char* kName = "conv_windows";
  ConvShape s;
  const void* image;  // dtype
  const void* w;      // dtype
  const void* bias;   // (out_channels) of dtype, or null
  void* map;          // out_dtype
  bool accumulate;    // without bias only
  DType dtype, out_dtype;
  float* scratch = nullptr;
  // Scratch of the CPU kernel: a tile per thread, and for bf16 the weight in fp32.
  int64_t scratch_floats() const;
  Cost cost() const {
    const int64_t result = width_of(out_dtype) * s.map_numel();
    return {2 * s.rows() * s.weight_numel(),
            width_of(dtype) * (s.image_numel() + s.weight_numel() + (bias ? s.out_channels : 0)) +
                (accumulate ? result : 0),
            result};
  }
};
void run(const ConvWindows&, Cpu, Stream&);
void run(const ConvWindows&, Cuda, Stream&);

// Products of `channels` columns: at a fifth of the rate for pictures of 3 channels, whose gradient no training wants.
// image[i,c] (+)= bias[c] + sum over (r, k) whose window element k is (i, c) of sum_o map[r,o] w[o,k]
struct ConvAdjoint {
  static constexpr const char* kName = "conv_adjoint";
  ConvShape s;
  const void* map;   // dtype
  const void* w;     // dtype
  const void* bias;  // (channels) of dtype, or null
  void* image;       // out_dtype
  bool accumulate;   // without bias only
  DType dtype, out_dtype;
  float* scratch = nullptr;
  // Scratch of the CPU kernel: a tile per thread and the weight, by phases.
  int64_t scratch_floats() const;
  Cost cost() const {
    const int64_t result = width_of(out_dtype) * s.image_numel();
    return {2 * s.batch * s.h.pairs() * s.w.pairs() * s.channels * s.out_channels,
            width_of(dtype) * (s.map_numel() + s.weight_numel() + (bias ? s.channels : 0)) + (accumulate ? result : 0),
            result};
  }
};
void run(const ConvAdjoint&, Cpu, Stream&);
void run(const ConvAdjoint&, Cuda, Stream&);

// dw[o,k] (+)= sum_r map[r,o] window[r,k], tiles of rows added in order
struct ConvWeightGrad {
  static constexpr const char* kName = "conv_weight_grad";
  ConvShape s;
  const void* image;  // dtype
  const void* map;    // dtype
  float* dw;
  bool accumulate;
  DType dtype;
  float* scratch = nullptr;
  // Scratch of the CPU kernel: one tile, divided among the threads, and the sums.
  int64_t scratch_floats() const;
  Cost cost() const {
    return {2 * s.rows() * s.weight_numel(),
            width_of(dtype) * (s.image_numel() + s.map_numel()) + (accumulate ? 4 * s.weight_numel() : 0),
            4 * s.weight_numel()};
  }
};
void run(const ConvWeightGrad&, Cpu, Stream&);
void run(const ConvWeightGrad&, Cuda, Stream&);

}  // namespace tpo
