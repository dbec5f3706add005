#include "data/collate.h"

#include <cmath>
#include <set>

#include "tests/data/data_fixture.h"
#include "tests/data/small_tokenizer.h"

namespace tpo {
namespace {

using testing::clip_sample;
using testing::message_of;

class CollateTest : public ::testing::Test {
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
  template <class... Items>
  static std::vector<CollateItem> list(Items... items) {
    std::vector<CollateItem> out;
    (out.push_back(std::move(items)), ...);
    return out;
  }
  std::unique_ptr<SentencePieceTokenizer> tok_ = testing::small_tokenizer();
  Templates templates_{*tok_, {.max_tokens = 256, .image_slots = 4, .clip_slots = 6}};
  CollateOptions options_{.image_size = 16, .clip_frames = 3};
};

std::vector<int> frame_numbers(const HostBatch& b) {
  const auto pixels = b.arrays.at("images").as<float>();
  std::vector<int> out;
  for (size_t at = 0; at < pixels.size(); at += 16 * 16 * 3) {
    out.push_back(static_cast<int>(std::lround((pixels[at] * kImageStd[0] + kImageMean[0]) * 25.5f)));
  }
  return out;
}

TEST_F(CollateTest, documents_are_packed_without_padding_and_rows_are_shifted) {
  const std::vector<CollateItem> items =
      list(item(testing::region_sample("a", 1), 6), item(testing::text_sample("t", "How many?", "3"), 7),
           item(testing::region_sample("b", 2), 9));
  const HostBatch b = collate(items, 2, options_);
  EXPECT_EQ(b.dataset, 2);
  EXPECT_EQ(b.sample_ids, (std::vector<std::string>{"a", "t", "b"}));
  const auto tokens = b.arrays.at("tokens").as<int32_t>(), cu = b.arrays.at("cu_seqlens").as<int32_t>();
  const auto positions = b.arrays.at("positions").as<int32_t>(), visual = b.arrays.at("visual_rows").as<int32_t>();
  const auto regions = b.arrays.at("region_rows").as<int32_t>();
  const auto rows = b.arrays.at("row_ids").as<int64_t>();
  ASSERT_EQ(cu.size(), 4u);
  EXPECT_EQ(cu[3], static_cast<int32_t>(tokens.size()));
  for (size_t s = 0; s < 3; ++s) {
    const auto& t = items[s].text;
    ASSERT_EQ(cu[s + 1] - cu[s], static_cast<int32_t>(t.tokens.size()));
    for (size_t i = 0; i < t.tokens.size(); ++i) {
      EXPECT_EQ(tokens[cu[s] + i], t.tokens[i]);
      EXPECT_EQ(b.arrays.at("targets").as<int32_t>()[cu[s] + i], t.targets[i]);
      EXPECT_EQ(positions[cu[s] + i], static_cast<int32_t>(i));
      EXPECT_EQ(rows[cu[s] + i], items[s].slot * (1 << 20) + static_cast<int64_t>(i));
    }
  }
  ASSERT_EQ(regions.size(), 2u);
  for (int32_t r : regions) EXPECT_EQ(tokens[r], id_of(TaskToken::kBoxes, *tok_));
  EXPECT_EQ(visual[4], cu[2] + items[2].text.visual_rows[0]);
  EXPECT_EQ(b.arrays.at("region_targets").shape, (Shape{2, 4}));
  EXPECT_EQ(b.arrays.at("images").shape, (Shape{2, 1, 16, 16, 3}));
  std::vector<float> want(16 * 16 * 3);
  resize_normalised(decode_image(items[2].raw.frame(0, 0), "b", {16, 16}), 16, 16, want);
  const auto images = b.arrays.at("images").as<float>();
  EXPECT_TRUE(std::equal(want.begin(), want.end(), images.begin() + 16 * 16 * 3));
}

TEST_F(CollateTest, text_alone_has_no_arrays_of_pictures_or_boxes) {
  const std::vector<CollateItem> items = list(item(testing::text_sample("t", "How many?", "3"), 0));
  const HostBatch b = collate(items, 0, options_);
  for (const char* name : {"images", "visual_rows", "region_rows", "box_in"})
    EXPECT_EQ(b.arrays.count(name), 0u) << name;
}

TEST_F(CollateTest, blind_pictures_are_zero_and_everything_else_is_the_same) {
  const std::vector<CollateItem> items = list(item(testing::region_sample("a", 1), 0));
  const HostBatch seeing = collate(items, 0, options_);
  options_.blind = true;
  const HostBatch blind = collate(items, 0, options_);
  for (float v : blind.arrays.at("images").as<float>()) ASSERT_EQ(v, 0.0f);
  for (const auto& [name, array] : seeing.arrays) {
    ASSERT_EQ(blind.arrays.count(name), 1u);
    if (name != "images") {
      EXPECT_EQ(array.bytes, blind.arrays.at(name).bytes) << name;
    }
  }
}

TEST_F(CollateTest, clips_take_the_middle_of_each_interval_and_repeat_the_last_frame) {
  EXPECT_EQ(frame_numbers(collate(list(item(clip_sample("c", 9), 0)), 0, options_)), (std::vector<int>{1, 4, 7}));
  EXPECT_EQ(frame_numbers(collate(list(item(clip_sample("c", 2), 0)), 0, options_)), (std::vector<int>{0, 1, 1}));
}

TEST_F(CollateTest, random_frames_stay_in_their_interval_and_follow_the_key) {
  options_.frames = CollateOptions::Frames::kRandom;
  std::set<std::vector<int>> seen;
  for (uint64_t k = 0; k < 20; ++k) {
    options_.key = RngKey(k);
    const auto f = frame_numbers(collate(list(item(clip_sample("c", 9), 0)), 0, options_));
    for (int i = 0; i < 3; ++i) EXPECT_EQ(f[static_cast<size_t>(i)] / 3, i);
    EXPECT_EQ(f, frame_numbers(collate(list(item(clip_sample("c", 9), 0)), 0, options_)));
    seen.insert(f);
  }
  EXPECT_GT(seen.size(), 5u);
}

TEST_F(CollateTest, a_prompt_has_the_slots_of_earlier_answers_and_no_labels) {
  auto p = testing::region_sample("a", 1);
  p.sample.mutable_turns()->MergeFrom(testing::text_sample("t", "How many?", "3").sample.turns());
  const CollateItem whole = item(p, 0);
  const HostBatch b = collate_prompt(whole.raw, templates_.encode_prompt(p.sample, 2), options_);
  EXPECT_EQ(b.arrays.at("region_rows").as<int32_t>()[0], whole.text.region_rows[0]);
  for (const char* name : {"targets", "row_ids", "region_targets"}) EXPECT_EQ(b.arrays.count(name), 0u) << name;
  const HostBatch trained = collate({&whole, 1}, 0, options_);
  for (const char* name : {"images", "visual_rows"})
    EXPECT_EQ(b.arrays.at(name).bytes, trained.arrays.at(name).bytes) << name;
}

TEST_F(CollateTest, mixed_kinds_and_broken_pictures_name_the_sample) {
  const std::vector<CollateItem> mixed = list(item(testing::region_sample("a", 1), 0), item(clip_sample("c", 4), 1));
  EXPECT_HAS(message_of<DataError>([&] { collate(mixed, 0, options_); }), "'c'");
  auto broken = testing::region_sample("b7", 1);
  for (size_t i = 200; i < broken.media.size(); ++i) broken.media[i] = std::byte{0xff};
  EXPECT_HAS(message_of<DataError>([&] { collate(list(item(broken, 0)), 0, options_); }), "sample 'b7'");
}

}  // namespace
}  // namespace tpo
