#include "model/vision/vision_encoder.h"

#include "model/vision/siglip_vit.h"
#include "model/vision/umt_vit.h"

namespace tpo {

void VisionEncoder::check_images(const Tensor& images) const {
  const VisionConfig& c = config_;
  check_shape(images.rank() == 5 && images.dim(2) == c.image_size && images.dim(3) == c.image_size &&
                  images.dim(4) == 3 && images.dim(1) >= 1 && images.dim(1) % c.tubelet == 0,
              "[vision] images ", images.shape(), " must be (media, frames, ", c.image_size, ", ", c.image_size,
              ", 3) with frames a multiple of ", c.tubelet);
}

std::unique_ptr<VisionEncoder> make_vision_encoder(const ParamScope& s, const VisionConfig& c,
                                                   const TensorParallel& tp) {
  switch (c.kind) {
    case VisionConfig::Kind::kUmt:
      return std::make_unique<UmtVit>(s, c, tp);
    case VisionConfig::Kind::kSiglip:
      return std::make_unique<SiglipVit>(s, c, tp);
  }
  throw ConfigError("vision.kind has an unknown value");
}

std::vector<VisionBlock> make_vision_blocks(const ParamScope& s, const VisionConfig& c, const VisionBlockStyle& style,
                                            const TensorParallel& tp) {
  std::vector<VisionBlock> blocks;
  blocks.reserve(static_cast<size_t>(c.depth));
  for (int i = 0; i < c.depth; ++i) blocks.emplace_back(s / i, c.width, c.heads, c.mlp_hidden, c.ln_eps, tp, style);
  return blocks;
}

Tensor run_vision_blocks(const std::vector<VisionBlock>& blocks, const Tensor& x_NC, int64_t rows, int64_t tokens,
                         const VisionConfig& c) {
  std::vector<int32_t> ends;
  for (int64_t row = 0; row <= rows; row += tokens) ends.push_back(static_cast<int32_t>(row));
  const Tensor cu = Tensor::from(ends, {static_cast<int64_t>(ends.size())});
  Tensor x = x_NC;
  for (const VisionBlock& block : blocks) x = block(x, cu, c.recompute, rows);
  return x;
}

bool count_vision_blocks(ProductCounter& f, const std::vector<VisionBlock>& blocks, int64_t rows, int64_t tokens,
                         Recompute recompute, bool wants) {
  for (const VisionBlock& block : blocks)
    wants = f.recomputed(recompute, [&] { return block.count(f, rows, rows * tokens, recompute, wants); });
  return wants;
}

}  // namespace tpo
