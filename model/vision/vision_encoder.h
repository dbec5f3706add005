#pragma once
// VisionEncoder: from normalised pictures to patch tokens. I media, T frames, P patches of a medium, C width.
#include <memory>

#include "model/block.h"

namespace tpo {

struct VisionConfig {
  enum class Kind { kUmt, kSiglip } kind = Kind::kUmt;
  // Pixels, both sides; kUmt: a multiple of patch, kSiglip: the rest is not seen. kUmt makes the position table for the
  // grid of this size; public code resamples that of 14 x 14, so public weights mean what they say at 224 only.
  int64_t image_size = 224;
  int64_t patch = 16;        // pixels
  int64_t frames = 4;        // kUmt: of the fixed position table, which clips of another length interpolate along time
  int64_t clip_frames = 16;  // of a clip, for those who make batches; the model takes clips of any length
  int64_t tubelet = 1;       // frames per patch; kSiglip: 1
  int64_t width = 1024;
  int64_t heads = 16;  // divides width
  int64_t depth = 23;  // blocks that exist and run
  int64_t mlp_hidden = 4096;
  float ln_eps = 1e-6f;         // of the blocks
  float outer_ln_eps = 1e-12f;  // kUmt
  Recompute recompute = Recompute::kNone;
  bool sequence_parallel = false;  // true: between attention and MLP each rank of the tensor axis has its rows only
};

// Extents of the patch tokens of one microbatch: rows are (media, frames, height, width), width fastest.
struct PatchGrid {
  int64_t media = 0, frames = 0, height = 0, width = 0;
  int64_t tokens_per_media() const { return frames * height * width; }
};

class VisionEncoder {
 public:
  explicit VisionEncoder(const VisionConfig& config) : config_(config) {}
  VisionEncoder(const VisionEncoder&) = delete;
  VisionEncoder& operator=(const VisionEncoder&) = delete;
  virtual ~VisionEncoder() = default;

  // images (I, T, H, W, 3) f32 normalised -> (I * P, C). Throws ShapeError if H or W is not image_size or T is not a
  // multiple of tubelet.
  virtual Tensor operator()(const Tensor& images) const = 0;
  // Counts the products of a pass over this grid; returns whether the tokens want a gradient.
  virtual bool count(ProductCounter& counter, const PatchGrid& grid) const = 0;

  PatchGrid grid(int64_t media, int64_t frames) const {
    const int64_t side = config_.image_size / config_.patch;
    return {media, frames / config_.tubelet, side, side};
  }
  const VisionConfig& config() const { return config_; }

 protected:
  void check_images(const Tensor& images) const;
  const VisionConfig config_;
};

std::unique_ptr<VisionEncoder> make_vision_encoder(const ParamScope& scope, const VisionConfig& config,
                                                   const TensorParallel& tp);

// What encoders made of VisionBlocks share: the blocks by `config`, named <scope>.N, and a pass of the stream x through
// them in which every `tokens` of its `rows` attend to each other.
std::vector<VisionBlock> make_vision_blocks(const ParamScope& scope, const VisionConfig& config,
                                            const VisionBlockStyle& style, const TensorParallel& tp);
Tensor run_vision_blocks(const std::vector<VisionBlock>& blocks, const Tensor& x_NC, int64_t rows, int64_t tokens,
                         const VisionConfig& config);
bool count_vision_blocks(ProductCounter& counter, const std::vector<VisionBlock>& blocks, int64_t rows, int64_t tokens,
                         Recompute recompute, bool wants);

}  // namespace tpo
