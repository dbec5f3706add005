// Vision encoders against public PyTorch implementations at small widths: golden/make_golden.py says which and how.
#include "golden.h"

#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"

namespace tpo::testing {
namespace {

void compare_vision(const std::string& file, const VisionConfig& c, int64_t media, int64_t frames) {
  Golden(file, {{"*attn.k.bias"}}).expect([&](const Numbers& numbers) {
    ParamStore store(1, numbers.storage);
    const auto tp = make_single();
    const auto vit = make_vision_encoder(ParamScope(store, "vision"), c, TensorParallel(*tp));
    numbers.fill(store);
    Tape tape;
    const TapeScope scope(tape);
    const Tensor y = (*vit)(cast(numbers.noise("images", {media, frames, c.image_size, c.image_size, 3}), DType::kF32));
    tape.backward(sum_all(mul(y, numbers.noise("dy", y.shape()))));
    Arrays out{{"output", floats(y)}};
    add_gradients(out, store);
    return out;
  });
}

VisionConfig umt(int64_t table_frames, int64_t tubelet) {
  return {.image_size = 16,
          .patch = 4,
          .frames = table_frames,
          .tubelet = tubelet,
          .width = 16,
          .heads = 2,
          .depth = 2,
          .mlp_hidden = 64};
}

TEST(Golden, vision_equals_public_umt_on_images) { compare_vision("umt_image", umt(4, 1), 3, 1); }
TEST(Golden, vision_equals_public_umt_on_clips_of_another_length) { compare_vision("umt_clip", umt(4, 1), 2, 6); }
TEST(Golden, vision_equals_public_umt_with_tubelets) { compare_vision("umt_tubelet", umt(4, 2), 1, 4); }

TEST(Golden, vision_equals_public_siglip) {
  const struct {
    const char* file;
    int64_t size, patch, width, heads, mlp, depth, media, frames;
  } kSiglip[] = {{"siglip_picture", 17, 4, 18, 3, 23, 2, 3, 1},
                 {"siglip_clip", 11, 3, 15, 1, 31, 1, 2, 4},
                 {"siglip_16", 14, 7, 8, 4, 9, 3, 1, 16}};
  for (const auto& c : kSiglip)
    for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull})
      compare_vision(c.file,
                     {.kind = VisionConfig::Kind::kSiglip,
                      .image_size = c.size,
                      .patch = c.patch,
                      .width = c.width,
                      .heads = c.heads,
                      .depth = c.depth,
                      .mlp_hidden = c.mlp,
                      .recompute = recompute},
                     c.media, c.frames);
}

}  // namespace
}  // namespace tpo::testing
