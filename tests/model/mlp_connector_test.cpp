// The connector of LLaVA-OneVision against golden/mlp_golden.py, and pictures in tiles: resolutions, slots, views, and
// the way through the model.
#include "model/connector/mlp_connector.h"

#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "core/ops/resize.h"
#include "golden.h"

namespace tpo::testing {
namespace {

constexpr int64_t kTile = 12;  // pixels

TEST(Golden, mlp_connector_equals_its_description) {
  const struct {
    const char* file;
    int64_t side, media, frames;
    std::vector<PictureSize> pictures;
    TilingConfig tiling;
  } kMlp[] = {{"mlp_clip", 5, 2, 3, {}, {}},
              {"mlp_picture", 3, 2, 1, {}, {}},
              {"mlp_tiles", 3, 0, 1, {{30, 20}, {7, 64}, {12, 12}}, {3, 9}},
              {"mlp_shrunk", 3, 0, 1, {{90, 61}, {20, 20}, {400, 90}}, {4, 3}}};
  for (const auto& c : kMlp) {
    Golden(c.file).expect([&](const Numbers& numbers) {
      ParamStore store(1, numbers.storage);
      const auto tp = make_single();
      const MlpConnector connector(ParamScope(store, "connector"), 5, 7, kTile, c.tiling, TensorParallel(*tp));
      numbers.fill(store);
      ConnectorInput in{.vision = {}, .grid = {c.media, c.frames, c.side, c.side}, .pictures = c.pictures};
      for (const PictureSize& p : c.pictures) in.grid.media += tile_layout(p, kTile, c.side, c.tiling).views();
      Tape tape;
      const TapeScope scope(tape);
      in.vision = tape.watch(numbers.noise("vision", {in.grid.media * in.grid.tokens_per_media(), 5}));
      const Tensor y = connector(in);
      EXPECT_EQ(y.dim(0), connector.slots_of_all(in)) << c.file;
      tape.backward(sum_all(mul(y, numbers.noise("dy", y.shape()))));
      Arrays out{{"output", floats(y)}, {"vision_grad", floats(tape.grad(in.vision))}};
      add_gradients(out, store);
      return out;
    });
  }
}

TEST(AnyResolution, resolutions_and_slots_are_those_of_the_description) {
  const Arrays arrays = read_golden("tiles.golden");
  const std::vector<float>& rows = arrays.at("tiles");
  ASSERT_EQ(rows.size(), 5 * 400u);
  for (size_t i = 0; i < rows.size(); i += 5) {
    const auto at = [&](size_t k) { return static_cast<int64_t>(rows[i + k]); };
    const TileLayout t = tile_layout({at(0), at(1)}, 384, 27, {.max_side = 6, .max_tiles = 9});
    EXPECT_EQ(t.grid.columns, at(2)) << at(0) << " x " << at(1);
    EXPECT_EQ(t.grid.rows, at(3)) << at(0) << " x " << at(1);
    EXPECT_EQ(t.slots(), at(4)) << at(0) << " x " << at(1);
  }
  EXPECT_THROW(best_tile_grid({0, 5}, 384, {}), ShapeError);
}

// A picture of one colour: the base has it everywhere, the tiles where they are not black, which is where the layout
// keeps tokens of them.
TEST(AnyResolution, views_are_the_picture_squeezed_and_the_picture_between_black_edges) {
  const TilingConfig tiling{.max_side = 3, .max_tiles = 9};
  for (const PictureSize& size : {PictureSize{24, 24}, {36, 12}, {30, 17}, {5, 40}, {1, 9}, {50, 50}}) {
    const TileLayout t = tile_layout(size, kTile, kTile, tiling);  // a token a pixel
    const Tensor picture = Tensor::from(std::vector<float>(static_cast<size_t>(size.width * size.height * 3), 0.75f),
                                        {1, size.height, size.width, 3});
    const Tensor views = cut_views(picture, kTile, tiling);
    ASSERT_EQ(views.shape(), Shape({t.views(), 1, kTile, kTile, 3}));
    const std::vector<float> v = views.to_vector<float>();
    const auto shows = [&](int64_t token) { return v[static_cast<size_t>(token * 3)] > 0.5f; };
    for (int64_t i = 0; i < kTile * kTile; ++i) EXPECT_TRUE(shows(i));
    int64_t shown = 0;
    for (int64_t i = kTile * kTile; i < views.numel() / 3; ++i) shown += shows(i);
    int64_t kept = 0;
    for (int64_t r = 0; r < t.kept_rows; ++r)
      for (int64_t c = 0; c < t.kept_columns; ++c) kept += shows(t.token(r, c));
    // Lengths are rounded up in pixels and down in tokens, and edges to equal ones: a line more or less on each side.
    const int64_t line = std::max(t.kept_rows, t.kept_columns);
    EXPECT_LE(shown - kept, line) << size.width << " x " << size.height;
    EXPECT_LE(t.kept_rows * t.kept_columns - kept, 2 * line) << size.width << " x " << size.height;
  }
}

// picture() of golden/views_golden.py.
Tensor stripes(int64_t width, int64_t height) {
  std::vector<float> v;
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < 3; ++c)
        v.push_back(static_cast<float>((x * 5 + y * 3 + c * 7) % 11 < 5 ? 3 * c : 255 - 2 * c) / 255);
  return Tensor::from(v, {1, height, width, 3});
}

// Pillow rounds to 8 bits after either pass: half a level, which the second takes with weights whose sizes add up to
// 1.27 at most (of all these resizings), and half a level of its own.
TEST(AnyResolution, views_are_those_of_pillow_before_it_rounds) {
  std::ifstream in(std::string(TPO_GOLDEN_DIR) + "/views.golden");
  int pictures = 0;
  for (int64_t width, height, n; in >> width >> height >> n; ++pictures) {
    const std::vector<float> got =
        cut_views(stripes(width, height), kTile, {.max_side = 3, .max_tiles = 9}).to_vector<float>();
    ASSERT_EQ(static_cast<int64_t>(got.size()), n);
    for (const float v : got) {
      float want = 0;
      in >> want;
      ASSERT_NEAR(255 * v, want, 1.27 / 2 + 0.5 + 0.001) << width << " x " << height;
    }
  }
  EXPECT_EQ(pictures, 5);
}

TEST(AnyResolution, tiles_lie_row_by_row) {
  const TilingConfig tiling{.max_side = 3, .max_tiles = 9};
  const Tensor noise = noise_tensor("picture", {1, 24, 36, 3});
  const Tensor picture = clamp(noise, 0, 1);  // already of the best resolution: 3 x 2 tiles
  const std::vector<float> views = cut_views(picture, kTile, tiling).to_vector<float>(),
                           all = picture.to_vector<float>();
  const TileLayout t = tile_layout({36, 24}, kTile, kTile, tiling);
  ASSERT_EQ(t.views(), 7);
  for (int64_t r = 0; r < 24; ++r)
    for (int64_t c = 0; c < 36; ++c)
      EXPECT_NEAR(views[static_cast<size_t>(t.token(r, c) * 3)], all[static_cast<size_t>((r * 36 + c) * 3)], 1e-6);
}

// Two pictures in tiles, of which one is resampled, in two packed samples.
Batch tiled_batch(const TpoModel& model, const std::vector<PictureSize>& sizes) {
  const TpoConfig& c = model.config();
  const int64_t side = c.vision.image_size, patches = side / c.vision.patch;
  std::vector<int32_t> rows;
  std::vector<int64_t> extents;
  int64_t views = 0, slots = 0;
  for (const PictureSize& p : sizes) {
    const TileLayout t = tile_layout(p, side, patches, c.connector.tiling);
    views += t.views(), slots += t.slots();
    extents.insert(extents.end(), {p.width, p.height});
  }
  for (int64_t i = 0; i < slots; ++i) rows.push_back(static_cast<int32_t>(i + 3));
  Batch batch = pack(model, {make_sample(model, "s", slots + 9, false, 1, false)});
  batch.set("images", noise_tensor("views", {views, 1, side, side, 3}));
  batch.set("visual_rows", Tensor::from(rows, {slots}));
  batch.set_extents("picture_sizes", extents);
  return batch;
}

TEST(TpoModel, reads_pictures_in_tiles) {
  const std::vector<PictureSize> sizes{{12, 20}, {70, 66}};
  const TpoConfig config = tiny_llava_config();
  EXPECT_FALSE(tile_layout(sizes[0], 11, 5, config.connector.tiling).resampled());
  EXPECT_TRUE(tile_layout(sizes[1], 11, 5, config.connector.tiling).resampled());
  std::map<std::string, int64_t, std::less<>> launches[2];
  int64_t peak[2];
  const std::unique_ptr<Stream> streams[2] = {Stream::make_cpu(), Stream::make_meta()};
  for (int i = 0; i < 2; ++i) {
    const StreamScope scope(*streams[i]);
    Rig rig(config);
    const Batch batch = tiled_batch(rig.model, sizes);
    run_loss(rig.model, batch, {0.05f, 0.25f});
    launches[i] = streams[i]->launches_by_kernel();
    peak[i] = streams[i]->allocator()->stats().peak_bytes;
    if (i == 0) {
      const Gradients gradients = take_gradients(rig.store);
      for (const char* name : {"vision.patch_embed.weight", "connector.fc1.weight", "connector.newline"})
        EXPECT_GT(max_abs(gradients.at(name)), 0) << name;
      Batch wrong = batch;
      wrong.set_extents("picture_sizes", {12, 20});
      EXPECT_THROW(loss_only(rig.model, wrong, {1, 1}), ShapeError);
      wrong.set_extents("picture_sizes", {12, 20, 70});
      EXPECT_THROW(loss_only(rig.model, wrong, {1, 1}), ShapeError);
    }
  }
  EXPECT_EQ(launches[0], launches[1]);
  EXPECT_EQ(peak[0], peak[1]);
  Rig linear;
  Batch batch = pack(linear.model, {make_sample(linear.model, "s", 9, true, 0, false)});
  batch.set_extents("picture_sizes", {8, 8});
  EXPECT_THROW(loss_only(linear.model, batch, {1, 1}), ShapeError);
}

}  // namespace
}  // namespace tpo::testing
