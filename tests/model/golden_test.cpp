// Vision encoders against public PyTorch implementations at small widths: golden/make_golden.py says which and how.
#include "golden.h"

#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"

namespace tpo::testing {
namespace {

void compare_vision(const std::string& file, int64_t media, int64_t frames, int64_t table_frames, int64_t tubelet) {
  Golden golden(file);
  const VisionConfig c{.image_size = 16,
                       .patch = 4,
                       .frames = table_frames,
                       .tubelet = tubelet,
                       .width = 16,
                       .heads = 2,
                       .depth = 2,
                       .mlp_hidden = 64};
  ParamStore store(1);
  const auto tp = make_single();
  const UmtVit vit(ParamScope(store, "vision"), c, *tp);
  fill_with_noise(store);
  Tape tape;
  const TapeScope scope(tape);
  const Tensor y = vit(noise_tensor("images", {media, frames, 16, 16, 3}));
  tape.backward(sum_all(mul(y, noise_tensor("dy", y.shape()))));
  golden.expect("output", y.to_vector<float>());
  golden.expect_gradients(take_gradients(store));
}

TEST(Golden, vision_equals_public_umt_on_images) { compare_vision("umt_image.golden", 3, 1, 4, 1); }
TEST(Golden, vision_equals_public_umt_on_clips_of_another_length) { compare_vision("umt_clip.golden", 2, 6, 4, 1); }
TEST(Golden, vision_equals_public_umt_with_tubelets) { compare_vision("umt_tubelet.golden", 1, 4, 4, 2); }

}  // namespace
}  // namespace tpo::testing
