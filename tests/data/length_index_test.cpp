#include "data/length_index.h"

#include "tests/data/data_fixture.h"
#include "tests/data/small_tokenizer.h"

namespace tpo {
namespace {

using testing::message_of;

class LengthIndexTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<testing::Packed> samples;
    for (int i = 0; i < 9; ++i) samples.push_back(testing::region_sample(cat("s", i), i));
    for (int i = 0; i < 4; ++i)
      samples.push_back(testing::text_sample(cat("t", i), "How many?", std::string(static_cast<size_t>(i), 'a') + "b"));
    testing::write_dataset(dir_ / "d", samples, "region", 5000);
  }
  testing::ScratchFolder dir_;
  std::unique_ptr<SentencePieceTokenizer> tok_ = testing::small_tokenizer();
  TemplateOptions options_{.max_tokens = 100, .image_slots = 4};
};

TEST_F(LengthIndexTest, what_is_built_is_loaded_and_says_what_encode_says) {
  const DatasetFolder d(dir_ / "d");
  const Templates t(*tok_, options_);
  int64_t last = 0;
  const auto built = build_length_index(d, t, 3, [&](int64_t done, int64_t) { last = done; });
  EXPECT_EQ(last, 13);
  EXPECT_EQ(load_length_index(d, t), built);
  for (int64_t i = 0; i < d.size(); ++i) {
    const TokenizedSample s = t.encode(d.read(i).sample);
    EXPECT_EQ(built[i].tokens, static_cast<int32_t>(s.tokens.size()));
    EXPECT_EQ(built[i].loss_tokens, s.loss_tokens);
    EXPECT_EQ(built[i].media, i < 9 ? 1 : 0);
    EXPECT_EQ(built[i].regions, i < 9 ? 1 : 0);
  }
}

TEST_F(LengthIndexTest, other_settings_have_their_own_index_and_a_missing_one_names_the_command) {
  const DatasetFolder d(dir_ / "d");
  build_length_index(d, Templates(*tok_, options_), 1);
  options_.image_slots = 6;
  const std::string m = message_of<DataError>([&] { load_length_index(d, Templates(*tok_, options_)); });
  EXPECT_HAS(m, "does not exist for these settings");
  EXPECT_HAS(m, "tpo_dist data index");
}

TEST_F(LengthIndexTest, a_changed_manifest_makes_it_stale) {
  const Templates t(*tok_, options_);
  build_length_index(DatasetFolder(dir_ / "d"), t, 1);
  const std::string path = dir_ / "d/manifest.textproto";
  testing::write_text(path, read_file(path) + "# touched\n");
  const DatasetFolder d(dir_ / "d");
  EXPECT_HAS(message_of<DataError>([&] { load_length_index(d, t); }), "does not exist for these settings");
}

TEST_F(LengthIndexTest, every_flipped_byte_and_every_length_is_refused) {
  const DatasetFolder d(dir_ / "d");
  const Templates t(*tok_, options_);
  build_length_index(d, t, 1);
  const std::string path = length_index_path(d, t), good = read_file(path);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    testing::write_text(path, bad);
    EXPECT_THROW(load_length_index(d, t), DataError) << "byte " << i;
    testing::write_text(path, good.substr(0, i));
    EXPECT_THROW(load_length_index(d, t), DataError) << "length " << i;
  }
}

TEST_F(LengthIndexTest, samples_that_do_not_fit_are_listed_and_nothing_is_written) {
  options_.max_tokens = 12;
  const DatasetFolder d(dir_ / "d");
  const Templates t(*tok_, options_);
  const std::string m = message_of<DataError>([&] { build_length_index(d, t, 2); });
  EXPECT_HAS(m, "'s0'");
  EXPECT_HAS(m, "'s8'");
  EXPECT_FALSE(std::filesystem::exists(length_index_path(d, t)));
}

}  // namespace
}  // namespace tpo
