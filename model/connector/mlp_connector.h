#pragma once
// The connector of LLaVA-OneVision: linear, GELU (erf), linear for every patch, then what the slots of a medium are:
//   clips (more than one frame)  the patches of each frame resampled bilinearly to half the side, rounded up; one
//   newline
//                                after the last frame: T * ceil(h/2) * ceil(w/2) + 1
//   whole pictures               all patches, one newline: h * w + 1
//   tiled pictures               TileLayout
// Names: <scope>.fc1 (C, C_v), <scope>.fc2 (C, C), <scope>.newline (C).
// Source: Li et al. 2024, arXiv:2408.03326.
#include "model/connector/connector.h"

namespace tpo {

class MlpConnector final : public Connector {
 public:
  // `tile`: pixels of a tile's side, the picture size of the encoder.
  MlpConnector(const ParamScope& scope, int64_t vision_width, int64_t width, int64_t tile, const TilingConfig& tiling,
               const TensorParallel& tp);
  // Throws ShapeError if the views of the pictures are not the media of the grid.
  Tensor operator()(const ConnectorInput& in) const override;
  int64_t slots(const PatchGrid& grid) const override;
  int64_t slots_of_all(const ConnectorInput& in) const override;
  bool count(ProductCounter& counter, const PatchGrid& grid, std::span<const int64_t> texts, bool wants) const override;

 private:
  std::vector<TileLayout> layouts(const ConnectorInput& in) const;
  Tensor assemble(const Tensor& tokens_NC, const std::vector<TileLayout>& pictures, int64_t patches) const;

  int64_t tile_;
  TilingConfig tiling_;
  Linear fc1_, fc2_;
  Param& newline_;
};

}  // namespace tpo
