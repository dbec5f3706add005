#pragma once
// Depthwise convolution: every channel with a kernel of its own. Vectors over channels; for 7 x 7 FMA-bound (49
// multiply-adds for two moved elements), for 3 x 3 bound by memory.
//   image (batch, h.image, w.image, channels), map (batch, h.out, w.out, channels), w (h.kernel, w.kernel, channels)
#include "core/kernels/conv.h"

namespace tpo {

struct DepthwiseShape {
  int64_t batch, channels;
  ConvAxis h, w;
  int64_t image_numel() const { return batch * h.image * w.image * channels; }
  int64_t map_numel() const { return batch * h.out * w.out * channels; }
  int64_t weight_numel() const { return h.kernel * w.kernel * channels; }
};

// map = bias + windows of the image times w; or, as its adjoint, image (+)= what the windows of the map's gradient
// give. The adjoint is the same loop over the map spread out by its stride, with the kernel turned round.
struct Depthwise {
  static constexpr const char* kName = "depthwise";
  DepthwiseShape s;
  const void* x;     // image, or map if adjoint; dtype
  const void* w;     // dtype
  const void* bias;  // (channels) of dtype, or null
  void* y;           // map, or image if adjoint; out_dtype
  bool adjoint;
  bool accumulate;
  DType dtype, out_dtype;
  float* scratch = nullptr;
  int64_t scratch_floats() const;  // of the CPU kernel: a band of rows per thread
  Cost cost() const {
    const int64_t in = adjoint ? s.map_numel() : s.image_numel(), out = adjoint ? s.image_numel() : s.map_numel();
    const int64_t result = width_of(out_dtype) * out;
    return {2 * s.h.kernel * s.w.kernel * out,
            width_of(dtype) * (in + s.weight_numel() + (bias ? s.channels : 0)) + (accumulate ? result : 0), result};
  }
};
void run(const Depthwise&, Cpu, Stream&);
void run(const Depthwise&, Cuda, Stream&);

// dw[u,v,c] (+)= sum over positions of map[.,c] image[. + (u,v),c], dbias[c] (+)= sum over positions of map[.,c]; rows
// of the map added in order, both in one pass over it. Either may be null.
struct DepthwiseWeightGrad {
  static constexpr const char* kName = "depthwise_weight_grad";
  DepthwiseShape s;
  const void* image;  // dtype
  const void* map;    // dtype
  float* dw;
  float* dbias;
  bool accumulate_w, accumulate_bias;
  DType dtype;
  float* scratch = nullptr;
  int64_t scratch_floats() const;  // of the CPU kernel: a band of rows per thread
  Cost cost() const {
    const int64_t w = dw != nullptr ? 4 * s.weight_numel() : 0, bias = dbias != nullptr ? 4 * s.channels : 0;
    return {((dw != nullptr ? 2 * s.h.kernel * s.w.kernel : 0) + (dbias != nullptr ? 1 : 0)) * s.map_numel(),
            width_of(dtype) * ((dw != nullptr ? s.image_numel() : 0) + s.map_numel()) + (accumulate_w ? w : 0) +
                (accumulate_bias ? bias : 0),
            w + bias};
  }
};
void run(const DepthwiseWeightGrad&, Cpu, Stream&);
void run(const DepthwiseWeightGrad&, Cuda, Stream&);

}  // namespace tpo
