#pragma once
// SigLIP vision transformer: patches by a convolution with bias, learned absolute positions, pre-norm blocks with
// biases everywhere and the tanh form of GELU; no class token. Frames are independent pictures.
// The public towers of LLaVA read the tokens before the last block: `depth` is one less than published, and the norm
// and pooling head behind the last block are not applied.
// Source: Zhai et al. 2023, arXiv:2303.15343; google/siglip-so400m-patch14-384.
#include "model/vision/vision_encoder.h"

namespace tpo {

// Names: <scope>.patch_embed, <scope>.position_embedding.weight (P of a frame, C), <scope>.blocks.N with attn.q, .k, .v
// and .proj. The columns of patch_embed.weight are (patch row, patch column, channel), channel fastest. Also, in a
// group of its own that no step uses, <scope>.post_norm: the public module has it, so files and counts have it too.
class SiglipVit final : public VisionEncoder {
 public:
  SiglipVit(const ParamScope& scope, const VisionConfig& config, const TensorParallel& tp);
  Tensor operator()(const Tensor& images) const override;
  bool count(ProductCounter& counter, const PatchGrid& grid) const override;

 private:
  TensorParallel tp_;
  Linear patch_embed_;
  Param& positions_;
  std::vector<VisionBlock> blocks_;
};

}  // namespace tpo
