#include "model/vision/siglip_vit.h"

#include <cmath>

#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/profile.h"

namespace tpo {

namespace {

int64_t frame_patches(const VisionConfig& c) { return (c.image_size / c.patch) * (c.image_size / c.patch); }

}  // namespace

SiglipVit::SiglipVit(const ParamScope& s, const VisionConfig& c, const TensorParallel& tp)
    : VisionEncoder(c),
      tp_{*tp.group, c.sequence_parallel},
      patch_embed_(s / "patch_embed", c.patch * c.patch * 3, c.width, Split::kNone, tp, Bias::kYes,
                   Init::xavier(c.patch * c.patch * 3, c.width)),
      positions_((s / "position_embedding")
                     .param("weight", {frame_patches(c), c.width},
                            Init::normal(0, 1 / std::sqrt(static_cast<float>(c.width))))),
      blocks_(make_vision_blocks(s / "blocks", c, {QkvProjection::kSeparate, Activation::kGeluTanh}, tp_)) {
  LayerNorm(s.in_group("vision.unused") / "post_norm", c.width, c.ln_eps);
}

Tensor SiglipVit::operator()(const Tensor& images) const {
  const ProfileScope region("vision encoder");
  check_images(images);
  const int64_t P = frame_patches(config_), frames = images.dim(0) * images.dim(1), C = config_.width;
  const Tensor patches_NC = patch_embed_(patchify(images, config_.patch, 1));
  const Tensor x_NC =
      add_table(patches_NC.view({frames, P, C}), positions_.use().view({1, P, C})).view({frames * P, C});
  const Tensor y_NC = run_vision_blocks(blocks_, tp_.begin_stream(x_NC, positions_.name), frames * P, P, config_);
  return tp_.end_stream(y_NC, frames * P, patch_embed_.weight().name);
}

bool SiglipVit::count(ProductCounter& f, const PatchGrid& g) const {
  const int64_t rows = g.media * g.tokens_per_media();
  const bool wants = f.linear(patch_embed_, rows, false) || positions_.trainable;
  return count_vision_blocks(f, blocks_, rows, g.height * g.width, config_.recompute, wants);
}

}  // namespace tpo
