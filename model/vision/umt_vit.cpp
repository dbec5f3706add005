#include "model/vision/umt_vit.h"

#include <algorithm>
#include <cmath>

#include "core/ops/cast.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/profile.h"

namespace tpo {

std::vector<float> sinusoid_table(int64_t positions, int64_t width) {
  std::vector<double> divisor(static_cast<size_t>(width));
  for (int64_t j = 0; j < width; ++j) {
    const int64_t pair = j / 2;  // sine and cosine of one frequency
    divisor[static_cast<size_t>(j)] = std::pow(10000.0, 2.0 * static_cast<double>(pair) / static_cast<double>(width));
  }
  std::vector<float> table;
  table.reserve(static_cast<size_t>(positions * width));
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t j = 0; j < width; ++j) {
      const double angle = static_cast<double>(p) / divisor[static_cast<size_t>(j)];
      table.push_back(static_cast<float>(j % 2 == 0 ? std::sin(angle) : std::cos(angle)));
    }
  }
  return table;
}

std::vector<float> interpolate_time(const std::vector<float>& table, int64_t from, int64_t to, int64_t spatial,
                                    int64_t width) {
  const int64_t frame = spatial * width;
  check_shape(static_cast<int64_t>(table.size()) == from * frame && to >= 1, "[interpolate_time] ", table.size(),
              " values are not ", from, " frames of ", spatial, " x ", width);
  std::vector<float> out(static_cast<size_t>(to * frame));
  for (int64_t t = 0; t < to; ++t) {
    const double centre = (static_cast<double>(t) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5;
    const double source = std::max(centre, 0.0);
    const int64_t lo = std::min(static_cast<int64_t>(source), from - 1), hi = std::min(lo + 1, from - 1);
    const double w = source - static_cast<double>(lo);
    for (int64_t i = 0; i < frame; ++i) {
      const double a = table[static_cast<size_t>(lo * frame + i)], b = table[static_cast<size_t>(hi * frame + i)];
      out[static_cast<size_t>(t * frame + i)] = static_cast<float>((1.0 - w) * a + w * b);
    }
  }
  return out;
}

UmtVit::UmtVit(const ParamScope& s, const VisionConfig& c, const TensorParallel& tp)
    : VisionEncoder(c),
      tp_{*tp.group, c.sequence_parallel},
      patch_embed_(s / "patch_embed", c.tubelet * c.patch * c.patch * 3, c.width, Split::kNone, tp, Bias::kYes,
                   Init::xavier(c.tubelet * c.patch * c.patch * 3, c.width)),
      blocks_(make_vision_blocks(s / "blocks", c, {}, tp_)),
      norm_(s / "norm", c.width, c.outer_ln_eps, tp_.stream_group()) {}

const Tensor& UmtVit::position_table(int64_t frames) const {
  const auto found = tables_.find(frames);
  if (found != tables_.end()) return found->second;
  const PatchGrid g = grid(1, frames);
  const int64_t spatial = g.height * g.width, trained = config_.frames / config_.tubelet;
  // An image takes the rows of a first frame; the table of a clip of another length is resampled, not extended.
  std::vector<float> table = sinusoid_table((g.frames == 1 ? 1 : trained) * spatial, config_.width);
  if (g.frames != 1 && g.frames != trained) table = interpolate_time(table, trained, g.frames, spatial, config_.width);
  const MemoryScope memory(MemoryKind::kWeights);
  const Tensor wide = Tensor::from(table, {g.tokens_per_media() * config_.width});
  return tables_.emplace(frames, cast(wide, patch_embed_.weight().value.dtype())).first->second;
}

Tensor UmtVit::operator()(const Tensor& images) const {
  const ProfileScope region("vision encoder");
  const VisionConfig& c = config_;
  check_images(images);
  const int64_t I = images.dim(0), P = grid(I, images.dim(1)).tokens_per_media();
  const Tensor patches = patch_embed_(patchify(images, c.patch, c.tubelet));  // (I * P, C)
  // The table is one long bias of all patches of a medium.
  const Tensor x_NC = add_bias(patches.view({I, P * c.width}), position_table(images.dim(1))).view({I * P, c.width});
  const Tensor y_NC = run_vision_blocks(blocks_, tp_.begin_stream(x_NC, patch_embed_.weight().name), I * P, P, c);
  return tp_.end_stream(norm_(y_NC), I * P, norm_.weight().name);
}

bool UmtVit::count(ProductCounter& f, const PatchGrid& g) const {
  const int64_t tokens = g.tokens_per_media(), rows = g.media * tokens;
  const bool wants = f.linear(patch_embed_, rows, false);
  return count_vision_blocks(f, blocks_, rows, tokens, config_.recompute, wants) || norm_.trains();
}

}  // namespace tpo
