#pragma once
// Samples of one microbatch -> HostBatch: documents packed one after the other, no padding.
//   tokens (N) i32, targets (N) i32 (label of the next position or -100), positions (N) i32 (restart per document),
//   cu_seqlens (S+1) i32, row_ids (N) i64 = slot in the step * 2^20 + position
//   images (I,T,H,W,3) f32 normalised, visual_rows (all slots) i32         absent without media
//     pictures in tiles: their views, T = 1; extents "picture_sizes" are width and height of each picture
//   connector_text.*: core/connector_text.h                                absent if no medium has a text
//   region_rows (R) i32, region_targets (R,4) f32                          absent without regions
//   box_in_rows (K) i32, box_in (K,4) f32                                  absent without box inputs
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/batch.h"
#include "core/rng.h"
#include "data/dataset.h"
#include "data/decode/image.h"
#include "data/templates.h"

namespace tpo {

struct CollateOptions {
  int image_size = 224;  // pictures are resized to image_size x image_size, no crop, so boxes keep their fractions
  std::optional<PictureTiling> tiling = {};  // pictures are views of this size, as TemplateOptions::tiling says
  PixelScale pixels = kImageNetScale;
  int clip_frames = 16;  // frames taken of a clip: one of each of clip_frames equal intervals
  enum class Frames { kMiddle, kRandom } frames = Frames::kMiddle;  // which frame of its interval
  RngKey key{};  // for Frames::kRandom, with the row id of the sample
  bool exact_decode =
      false;           // JPEGs may be decoded at 1/2, 1/4, 1/8 when that is still at least image_size; true: never
  bool blind = false;  // all pictures are zero (the mean colour): a baseline that cannot see
};

struct CollateItem {
  RawSample raw;
  TokenizedSample text;
  int64_t slot = 0;  // in the step
};

// Throws DataError naming the sample: broken picture, or one whose size is not what its sample says and decides tiles;
// pictures and clips mixed in one microbatch, document over 2^20 tokens.
HostBatch collate(std::span<const CollateItem> items, int dataset, const CollateOptions& options);

// A prompt for generation: the same without labels and without row_ids, so that nothing is dropped; clips by the middle
// frames of their intervals.
HostBatch collate_prompt(const RawSample& raw, const TokenizedSample& prompt, const CollateOptions& options);

}  // namespace tpo
