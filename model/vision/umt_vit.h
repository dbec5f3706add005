#pragma once
// UMT-style vision transformer for images (T = 1) and clips: patches, fixed sinusoid positions, joint space-time
// attention over all patches of a medium, pre-norm blocks, and the outer LayerNorm that the public model keeps outside.
// I media, T frames, P = T/tubelet * (size/patch)^2 patches of a medium, C width.
// Source: Li et al. 2023, arXiv:2303.16058; block and position details from the public VideoChat2 code.
#include <map>
#include <vector>

#include "model/vision/vision_encoder.h"

namespace tpo {

// (positions, width): sin on even columns, cos on odd, angle = p / 10000^(2*floor(j/2)/width), in double, then rounded.
std::vector<float> sinusoid_table(int64_t positions, int64_t width);
// A table of (from * spatial, width) resampled linearly along time to (to * spatial, width), half-pixel centres, ends
// clamped (torch interpolate with align_corners = false).
std::vector<float> interpolate_time(const std::vector<float>& table, int64_t from, int64_t to, int64_t spatial,
                                    int64_t width);

// Names: <scope>.patch_embed, <scope>.blocks.N, <scope>.norm. The columns of patch_embed.weight are
// (tubelet, patch row, patch column, channel), channel fastest.
class UmtVit final : public VisionEncoder {
 public:
  UmtVit(const ParamScope& scope, const VisionConfig& config, const TensorParallel& tp);
  Tensor operator()(const Tensor& images) const override;
  bool count(ProductCounter& counter, const PatchGrid& grid) const override;

 private:
  const Tensor& position_table(int64_t frames) const;  // (P * C), made once per clip length

  TensorParallel tp_;
  Linear patch_embed_;
  std::vector<VisionBlock> blocks_;
  LayerNorm norm_;
  mutable std::map<int64_t, Tensor> tables_;
};

}  // namespace tpo
