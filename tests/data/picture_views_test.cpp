// Pictures in tiles: their pixels against the tensors of model/vision/any_resolution.h, and the way through templates,
// length index and collate.
#include "data/picture_views.h"

#include <set>

#include "data/collate.h"
#include "data/length_index.h"
#include "model/vision/any_resolution.h"
#include "tests/data/data_fixture.h"
#include "tests/data/small_tokenizer.h"

namespace tpo {
namespace {

using testing::message_of;

constexpr PictureTiling kTiling{.tile = 12, .patches = 3, .limits = {.max_side = 3, .max_tiles = 4}};

// A slope without overshoot.
Image slope(int width, int height) {
  Image image{width, height, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c)
        image.rgb.push_back(static_cast<uint8_t>(90 + 30 * c + 60 * x / width - 50 * y / height));
    }
  }
  return image;
}

std::vector<float> by_tensors(const Image& image, const PixelScale& scale) {
  std::vector<float> pixels(image.rgb.begin(), image.rgb.end());
  for (float& v : pixels) v /= 255.0f;
  std::vector<float> out =
      cut_views(Tensor::from(pixels, {1, image.height, image.width, 3}), kTiling.tile, kTiling.limits)
          .to_vector<float>();
  for (size_t i = 0; i < out.size(); ++i) out[i] = (out[i] - scale.mean[i % 3]) / scale.std[i % 3];
  return out;
}

// Two sums of at most 4 * 24 / 12 + 1 products of numbers below 1 in another order, divided by a deviation of 0.22 or
// more: 2 * 9 * 2^-24 / 0.22 < 5e-6.
constexpr float kSums = 5e-6f;

testing::Packed picture(const std::string& id, int width, int height) {
  testing::Packed p = testing::region_sample(id, 1, width, height);
  p.media = encode_png(slope(width, height));
  p.sample.mutable_media(0)->set_kind(data::Media::PNG);
  p.sample.mutable_media(0)->set_frame_bytes(0, static_cast<uint32_t>(p.media.size()));
  return p;
}

TEST(PictureViews, pixels_are_those_of_cut_views) {
  for (const auto& [width, height] : {std::pair{12, 12}, {36, 12}, {30, 17}, {5, 40}, {24, 24}, {1, 9}, {100, 37}}) {
    SCOPED_TRACE(cat(width, " x ", height));
    Image image = slope(width, height);
    if (width != height)  // steps, where cubic weights overshoot and both passes clamp
      for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = i * 5 % 11 < 5 ? 0 : 255;
    for (const PixelScale& scale : {kImageNetScale, kSignedScale}) {
      const std::vector<float> want = by_tensors(image, scale);
      std::vector<float> got(want.size());
      fill_views(image, {width, height}, kTiling, got, scale);
      for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], kSums) << i;
    }
  }
  std::vector<float> wrong(12 * 12 * 3);
  EXPECT_THROW(fill_views(slope(12, 12), {12, 12}, kTiling, wrong, kSignedScale), ShapeError);
}

class TiledPictures : public ::testing::Test {
 protected:
  CollateItem item(const testing::Packed& p, int64_t slot) const {
    CollateItem it;
    it.raw.sample = p.sample;
    it.raw.media.resize(p.media.size());
    std::copy(p.media.begin(), p.media.end(), it.raw.media.data());
    it.text = templates_.encode(p.sample);
    it.slot = slot;
    return it;
  }
  std::unique_ptr<SentencePieceTokenizer> tok_ = testing::small_tokenizer();
  Templates templates_{*tok_, {.max_tokens = 256, .image_slots = 4, .clip_slots = 6, .tiling = kTiling}};
  CollateOptions options_{.image_size = 12, .tiling = kTiling, .pixels = kSignedScale, .clip_frames = 1};
};

TEST_F(TiledPictures, slots_follow_the_size_and_the_length_index_says_so) {
  testing::ScratchFolder dir;
  const std::vector<PictureSize> sizes = {{36, 12}, {30, 17}, {5, 40}, {36, 36}};
  std::vector<testing::Packed> samples;
  for (const PictureSize& s : sizes)
    samples.push_back(picture(cat("p", s.width), static_cast<int>(s.width), static_cast<int>(s.height)));
  samples[3].sample.set_id("large");
  samples.push_back(testing::text_sample("t", "How many?", "3"));
  testing::write_dataset(dir / "d", samples);
  const DatasetFolder folder(dir / "d");
  const std::vector<LengthEntry> index = build_length_index(folder, templates_, 2);
  for (size_t i = 0; i < sizes.size(); ++i) {
    const TileLayout t = kTiling.layout(sizes[i]);
    const TokenizedSample text = templates_.encode(samples[i].sample);
    EXPECT_EQ(static_cast<int64_t>(text.visual_rows.size()), t.slots());
    EXPECT_EQ(text.views, t.views());
    EXPECT_EQ(index[i].visual_slots, t.slots());
    EXPECT_EQ(index[i].views, t.views());
    EXPECT_EQ(index[i].media, 1);
    EXPECT_EQ(index[i].tokens, static_cast<int32_t>(text.tokens.size()));
  }
  EXPECT_EQ(index[4].views, 0);
  TemplateOptions options = templates_.options();
  std::set<uint64_t> keys{templates_.fingerprint()};
  for (PictureTiling change : {PictureTiling{24, 3, {3, 4}}, {12, 4, {3, 4}}, {12, 3, {2, 4}}, {12, 3, {3, 5}}}) {
    options.tiling = change;
    EXPECT_TRUE(keys.insert(Templates(*tok_, options).fingerprint()).second);
  }
  options.tiling.reset();
  EXPECT_TRUE(keys.insert(Templates(*tok_, options).fingerprint()).second);
  options.tiling = PictureTiling{.tile = 0};
  EXPECT_HAS(message_of<ConfigError>([&] { Templates(*tok_, options); }), "tiles of 0 pixels");
}

TEST_F(TiledPictures, pictures_of_several_sizes_share_a_microbatch) {
  testing::Packed two = picture("two", 30, 17);
  const testing::Packed more = picture("more", 5, 40);
  *two.sample.add_media() = more.sample.media(0);
  two.media.insert(two.media.end(), more.media.begin(), more.media.end());
  std::vector<CollateItem> items;
  items.push_back(item(picture("a", 36, 12), 3));
  items.push_back(item(testing::text_sample("t", "How many?", "3"), 4));
  items.push_back(item(two, 5));
  const HostBatch b = collate(items, 0, options_);
  EXPECT_EQ(b.extents.at("picture_sizes"), (std::vector<int64_t>{36, 12, 30, 17, 5, 40}));
  std::vector<float> want;
  for (const auto& [width, height] : {std::pair{36, 12}, {30, 17}, {5, 40}}) {
    const std::vector<float> views = by_tensors(slope(width, height), kSignedScale);
    want.insert(want.end(), views.begin(), views.end());
  }
  const int64_t views = items[0].text.views + items[2].text.views;
  ASSERT_EQ(b.arrays.at("images").shape, (Shape{views, 1, 12, 12, 3}));
  const auto got = b.arrays.at("images").as<float>();
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], kSums) << i;
  EXPECT_EQ(b.arrays.at("visual_rows").shape.numel(),
            static_cast<int64_t>(items[0].text.visual_rows.size() + items[2].text.visual_rows.size()));

  const HostBatch prompt = collate_prompt(items[0].raw, templates_.encode_prompt(items[0].raw.sample, 0), options_);
  EXPECT_EQ(prompt.extents.at("picture_sizes"), (std::vector<int64_t>{36, 12}));
  const auto seen = prompt.arrays.at("images").as<float>();
  EXPECT_TRUE(std::equal(seen.begin(), seen.end(), got.begin()));
  for (const char* name : {"targets", "row_ids", "region_targets"}) EXPECT_EQ(prompt.arrays.count(name), 0u) << name;
}

// JPEG may be decoded smaller, by what the size on the canvas allows and not that of a tile.
TEST_F(TiledPictures, large_jpegs_are_not_decoded_below_their_tiles) {
  testing::Packed p = testing::region_sample("j", 1, 144, 48);
  p.media = encode_jpeg(slope(144, 48), 100);
  p.sample.mutable_media(0)->set_frame_bytes(0, static_cast<uint32_t>(p.media.size()));
  const ImageSize least = size_for_views({144, 48}, kTiling);
  EXPECT_EQ(least.width, 36);
  EXPECT_EQ(least.height, 12);
  std::vector<CollateItem> items;
  items.push_back(item(p, 0));
  const HostBatch fast = collate(items, 0, options_);
  options_.exact_decode = true;
  const HostBatch exact = collate(items, 0, options_);
  const auto a = fast.arrays.at("images").as<float>(), b = exact.arrays.at("images").as<float>();
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 4 / 127.5) << "a few levels of 255";
}

TEST_F(TiledPictures, wrong_sizes_and_clips_among_pictures_name_the_sample) {
  testing::Packed lies = picture("lies", 30, 17);
  lies.sample.mutable_media(0)->set_height(18);
  std::vector<CollateItem> items;
  items.push_back(item(lies, 0));
  EXPECT_HAS(message_of<DataError>([&] { collate(items, 0, options_); }), "'lies', media 0 is 30 x 17, its record");
  testing::Packed clip = testing::region_sample("clip", 1, 12, 12);
  clip.sample.mutable_media(0)->set_kind(data::Media::JPEG_FRAMES);
  items.clear();
  items.push_back(item(picture("a", 36, 12), 0));
  items.push_back(item(clip, 1));
  EXPECT_HAS(message_of<DataError>([&] { collate(items, 0, options_); }), "sample 'clip' has media of 1 frames");
}

TEST(tile_layout, a_picture_thinner_than_a_token_keeps_those_in_the_middle) {
  for (const int64_t patches : {3, 4}) {
    for (const bool high : {false, true}) {
      const PictureSize p = high ? PictureSize{4, 100} : PictureSize{100, 4};
      const TileLayout t = tile_layout(p, 8 * patches, patches, {.max_side = 2, .max_tiles = 9});
      EXPECT_EQ(t.grid.tiles(), 2);
      EXPECT_EQ(high ? t.kept_rows : t.kept_columns, 2 * patches);
      EXPECT_EQ(high ? t.kept_columns : t.kept_rows, patches % 2 == 1 ? 1 : 2);
      EXPECT_EQ(high ? t.left : t.top, 1);
    }
  }
}

}  // namespace
}  // namespace tpo
