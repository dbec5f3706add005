#pragma once
// UMT-style vision transformer for images (T = 1) and clips: patches, fixed sinusoid positions, joint space-time
// attention over all patches of a medium, pre-norm blocks, and the outer LayerNorm that the public model keeps outside.
// I media, T frames, P = T/tubelet * (size/patch)^2 patches of a medium, C width.
// Source: Li et al. 2023, arXiv:2303.16058; block and position details from the public VideoChat2 code.
#include <map>
#include <vector>

#include "model/block.h"

namespace tpo {

struct VisionConfig {
  int64_t image_size = 224;  // pixels, both sides; a multiple of patch
  int64_t patch = 16;        // pixels
  int64_t frames = 4;        // frames of the fixed position table; other clip lengths interpolate it along time
  int64_t tubelet = 1;       // frames per patch
  int64_t width = 1024;      // even
  int64_t heads = 16;        // divides width
  int64_t depth = 23;        // blocks that exist and run
  int64_t mlp_hidden = 4096;
  float ln_eps = 1e-6f;  // of the blocks
  float outer_ln_eps = 1e-12f;
  Recompute recompute = Recompute::kNone;
  bool sequence_parallel = false;  // true: between attention and MLP each rank of the tensor axis has its rows only
};

// Extents of the patch tokens of one microbatch: rows are (media, frames, height, width), width fastest.
struct PatchGrid {
  int64_t media = 0, frames = 0, height = 0, width = 0;
  int64_t tokens_per_media() const { return frames * height * width; }
};

// (positions, width): sin on even columns, cos on odd, angle = p / 10000^(2*floor(j/2)/width), in double, then rounded.
std::vector<float> sinusoid_table(int64_t positions, int64_t width);
// A table of (from * spatial, width) resampled linearly along time to (to * spatial, width), half-pixel centres, ends
// clamped (torch interpolate with align_corners = false).
std::vector<float> interpolate_time(const std::vector<float>& table, int64_t from, int64_t to, int64_t spatial,
                                    int64_t width);

// Names: <scope>.patch_embed, <scope>.blocks.N, <scope>.norm. The columns of patch_embed.weight are
// (tubelet, patch row, patch column, channel), channel fastest.
class UmtVit {
 public:
  UmtVit(const ParamScope& scope, const VisionConfig& config, const TensorParallel& tp);
  // images (I, T, H, W, 3) f32 normalised -> (I * P, C). Throws ShapeError if H or W is not image_size or T is not a
  // multiple of tubelet.
  Tensor operator()(const Tensor& images) const;
  PatchGrid grid(int64_t media, int64_t frames) const;

  const VisionConfig& config() const { return config_; }
  const Linear& patch_embed() const { return patch_embed_; }
  const std::vector<VisionBlock>& blocks() const { return blocks_; }
  const LayerNorm& norm() const { return norm_; }

 private:
  const Tensor& position_table(int64_t frames) const;  // (P * C), made once per clip length

  VisionConfig config_;
  TensorParallel tp_;
  Linear patch_embed_;
  std::vector<VisionBlock> blocks_;
  LayerNorm norm_;
  mutable std::map<int64_t, Tensor> tables_;
};

}  // namespace tpo
