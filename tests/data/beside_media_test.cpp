// Texts that a connector reads beside media, and the message about frame times in the prompt: what they say, how many
// tokens they have, and where they stand.
#include <set>

#include "core/connector_text.h"
#include "data/collate.h"
#include "data/frame_times.h"
#include "data/length_index.h"
#include "data/tokenizer/load_tokenizer.h"
#include "data/tokenizer/wordpiece.h"
#include "tests/data/data_fixture.h"
#include "tests/data/small_tokenizer.h"

namespace tpo {
namespace {

using testing::clip_sample;
using testing::message_of;

constexpr const char* kVocab =
    "[UNK]\n[CLS]\n[SEP]\nclip\nnumber\n0\n1\n2\n3\n.\n,\n4\n5\nis\nshown\nby\nframes\ntaken\nat\nseconds\nwhere\n?"
    "\nbe\nbrief\n9\n";

class BesideMedia : public ::testing::Test {
 protected:
  Templates templates(TextBesideMedia what, int32_t longest = 512) const {
    TemplateOptions o = options_;
    o.beside_media = what, o.beside_media_tokens = longest;
    return Templates(*tok_, o, words_);
  }
  std::string said(const std::vector<int32_t>& ids) const { return words_->decode(ids); }

  std::unique_ptr<SentencePieceTokenizer> tok_ = testing::small_tokenizer();
  std::shared_ptr<const Tokenizer> words_ = std::make_shared<WordPieceTokenizer>(kVocab, "words");
  TemplateOptions options_{.max_tokens = 256, .image_slots = 6, .clip_slots = 6, .clip_frames = 3};
};

TEST_F(BesideMedia, frames_are_the_middles_of_intervals_and_times_are_rounded) {
  EXPECT_EQ(middle_frames(9, 3), (std::vector<int>{1, 4, 7}));
  EXPECT_EQ(middle_frames(2, 3), (std::vector<int>{0, 1, 1}));
  EXPECT_EQ(middle_frames(7, 2), (std::vector<int>{1, 4}));
  EXPECT_EQ(frame_times(clip_sample("c", 9).sample, 0, 3), "0.1, 0.5, 0.9") << "1/8, 4/8, 7/8 of a second";
  auto p = clip_sample("c", 9);
  for (const float fps : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    p.sample.mutable_media(0)->set_fps(fps);
    EXPECT_HAS(message_of<DataError>([&] { frame_times(p.sample, 0, 3); }),
               "sample 'c': media[0] is a clip of unknown");
  }
}

TEST_F(BesideMedia, each_clip_is_told_its_number_and_its_times) {
  auto p = clip_sample("c", 9);
  *p.sample.add_media() = p.sample.media(0);
  const TokenizedSample t = templates(TextBesideMedia::kFrameTimes).encode(p.sample);
  ASSERT_EQ(t.connector_texts.size(), 2u);
  EXPECT_EQ(said(t.connector_texts[0]),
            "clip number 1 is shown by 3 frames , taken at 0 . 1 , 0 . 5 , 0 . 9 seconds .");
  EXPECT_EQ(said(t.connector_texts[1]).substr(0, 13), "clip number 2");
  for (const auto& text : t.connector_texts) {
    EXPECT_EQ(text.front(), words_->bos());
    EXPECT_EQ(text.back(), words_->eos());
  }
  EXPECT_EQ(templates(TextBesideMedia::kFrameTimes).encode_prompt(p.sample, 0).connector_texts, t.connector_texts);
  EXPECT_TRUE(
      templates(TextBesideMedia::kFrameTimes).encode(testing::region_sample("r", 1).sample).connector_texts.empty());
}

TEST_F(BesideMedia, instructions_are_the_system_text_and_the_first_question) {
  auto p = clip_sample("c", 4);
  const auto question = p.sample.turns(0), answer = p.sample.turns(1);
  p.sample.clear_turns();
  auto& system = *p.sample.add_turns();
  system.set_role(data::Turn::SYSTEM), system.set_text("Be brief.");
  *p.sample.add_turns() = question, *p.sample.add_turns() = answer;
  *p.sample.add_turns() = question, *p.sample.add_turns() = answer;
  const TokenizedSample t = templates(TextBesideMedia::kInstruction).encode(p.sample);
  ASSERT_EQ(t.connector_texts.size(), 1u);
  EXPECT_EQ(said(t.connector_texts[0]), "be brief . where ?");
  EXPECT_EQ(t.connector_texts[0].size(), 7u);
  // Of a long text the end stays, between its marks.
  const auto cut = templates(TextBesideMedia::kInstruction, 4).encode(p.sample).connector_texts;
  EXPECT_EQ(cut[0],
            (std::vector<int32_t>{words_->bos(), t.connector_texts[0][4], t.connector_texts[0][5], words_->eos()}));

  const auto picture = testing::region_sample("r", 1).sample;
  EXPECT_TRUE(templates(TextBesideMedia::kInstruction).encode(picture).connector_texts.empty());
  EXPECT_EQ(templates(TextBesideMedia::kInstructionOfAll).encode(picture).connector_texts.size(), 1u);
}

TEST_F(BesideMedia, an_instruction_says_in_words_that_a_box_is_given) {
  auto marked = clip_sample("c", 9), words = clip_sample("c", 9);
  data::Turn& turn = *marked.sample.mutable_turns(0);
  turn.set_text("<video> Where is <track_box>?"), turn.add_boxes(0);
  marked.sample.add_boxes()->set_x2(1);
  words.sample.mutable_turns(0)->set_text("<video> Where is the marked object?");
  const Templates t = templates(TextBesideMedia::kInstruction);
  const TokenizedSample given = t.encode(marked.sample);
  EXPECT_EQ(given.box_in_rows.size(), 1u);
  EXPECT_EQ(given.connector_texts, t.encode(words.sample).connector_texts);
}

TEST_F(BesideMedia, the_length_index_counts_them_and_knows_the_settings) {
  testing::ScratchFolder dir;
  testing::write_dataset(dir / "d",
                         {clip_sample("a", 9), testing::text_sample("t", "Where?", "3"), clip_sample("b", 40)});
  const DatasetFolder folder(dir / "d");
  const Templates t = templates(TextBesideMedia::kFrameTimes);
  const auto index = build_length_index(folder, t, 1);
  for (int64_t i : {0, 2}) {
    const auto texts = t.encode(folder.read(i).sample).connector_texts;
    EXPECT_EQ(index[static_cast<size_t>(i)].connector_tokens, static_cast<int32_t>(texts.at(0).size()));
  }
  EXPECT_EQ(index[1].connector_tokens, 0);
  std::set<uint64_t> keys{Templates(*tok_, options_).fingerprint(), t.fingerprint()};
  EXPECT_EQ(keys.size(), 2u);
  EXPECT_TRUE(keys.insert(templates(TextBesideMedia::kInstruction).fingerprint()).second);
  EXPECT_TRUE(keys.insert(templates(TextBesideMedia::kFrameTimes, 100).fingerprint()).second);
  options_.clip_frames = 4;
  EXPECT_TRUE(keys.insert(templates(TextBesideMedia::kFrameTimes).fingerprint()).second);
  EXPECT_FALSE(keys.insert(Templates(*tok_, options_).fingerprint()).second) << "off: nothing depends on it";
}

TEST_F(BesideMedia, collate_puts_a_text_beside_each_medium_and_random_frames_do_not_change_it) {
  const Templates t = templates(TextBesideMedia::kFrameTimes);
  std::vector<CollateItem> items;
  auto two = clip_sample("two", 9);
  *two.sample.add_media() = two.sample.media(0);
  two.media.insert(two.media.end(), two.media.begin(), two.media.end());
  for (const auto& p : {clip_sample("a", 20), testing::text_sample("t", "Where?", "3"), two}) {
    CollateItem it;
    it.raw.sample = p.sample;
    it.raw.media.resize(p.media.size());
    std::copy(p.media.begin(), p.media.end(), it.raw.media.data());
    it.text = t.encode(p.sample), it.slot = static_cast<int64_t>(items.size()) + 5;
    items.push_back(std::move(it));
  }
  CollateOptions options{.image_size = 16, .clip_frames = 3, .frames = CollateOptions::Frames::kRandom};
  const HostBatch b = collate(items, 0, options);
  HostBatch want;
  add_connector_text(
      want,
      std::vector<std::vector<int32_t>>{items[0].text.connector_texts[0], items[2].text.connector_texts[0],
                                        items[2].text.connector_texts[1]},
      6,
      std::vector<int64_t>{5 * (1 << 20) + items[0].text.visual_rows[0], 7 * (1 << 20) + items[2].text.visual_rows[0],
                           7 * (1 << 20) + items[2].text.visual_rows[6]});
  options.key = RngKey(9);
  const HostBatch drawn = collate(items, 0, options);
  EXPECT_NE(drawn.arrays.at("images").bytes, b.arrays.at("images").bytes);
  EXPECT_EQ(want.arrays.size(), 7u);
  for (const auto& [name, array] : want.arrays) {
    EXPECT_EQ(b.arrays.at(name).bytes, array.bytes) << name;
    EXPECT_EQ(drawn.arrays.at(name).bytes, array.bytes) << name;
  }
  const HostBatch prompt = collate_prompt(items[0].raw, items[0].text, options);
  EXPECT_EQ(prompt.arrays.count("connector_text.ids"), 1u);
  EXPECT_EQ(prompt.arrays.count("connector_text.row_ids"), 0u);
}

constexpr const char* kTold = "The clip is shown by 3 frames, taken at 0.1, 0.5, 0.9 seconds.";

TEST_F(BesideMedia, the_message_stands_behind_its_clip) {
  options_.frame_message = FrameMessage::kAlways;
  auto p = clip_sample("c", 9);
  *p.sample.add_media() = p.sample.media(0);
  const auto append = [](std::vector<int32_t>& to, const Tokenizer& tok, std::string_view text) {
    const auto more = tok.encode(text);
    to.insert(to.end(), more.begin(), more.end());
  };
  const Templates mistral(*tok_, options_);
  std::vector<int32_t> want{tok_->bos()};
  append(want, *tok_, "[INST] <Video>"), want.insert(want.end(), 6, 0);
  append(want, *tok_, cat("</Video>", kTold, "<Video>")), want.insert(want.end(), 6, 0);
  append(want, *tok_, cat("</Video>", kTold, "[/INST]")), append(want, *tok_, " [INST] Where? [/INST] ");
  EXPECT_EQ(mistral.encode_prompt(p.sample, 0).tokens, want);
  EXPECT_EQ(
      mistral.encode(testing::region_sample("r", 1).sample).tokens,
      Templates(*tok_, {.max_tokens = 256, .image_slots = 6}).encode(testing::region_sample("r", 1).sample).tokens)
      << "pictures have none";

  const auto qwen = load_tokenizer(std::string(TPO_SOURCE_DIR) + "/tests/data/fixtures/tokenizers/qwen2.json");
  options_.chat = ChatFormat::kChatMl;
  const auto tokens = Templates(*qwen, options_).encode_prompt(p.sample, 0).tokens;
  want.clear();
  const auto mark = [&](const char* text) { want.push_back(qwen->added().find(text)->id); };
  mark("<|im_start|>"), append(want, *qwen, cat("system\n", kChatMlSystem)), mark("<|im_end|>"),
      append(want, *qwen, "\n");
  mark("<|im_start|>"), append(want, *qwen, "user\n"), want.insert(want.end(), 6, 0);
  append(want, *qwen, cat("\n", kTold, "\n")), want.insert(want.end(), 6, 0);
  append(want, *qwen, cat("\n", kTold, "\nWhere?")), mark("<|im_end|>"), append(want, *qwen, "\n");
  mark("<|im_start|>"), append(want, *qwen, "assistant\n");
  EXPECT_EQ(tokens, want);
}

TEST_F(BesideMedia, temporal_samples_and_half_of_the_others_have_it_by_their_id) {
  const Templates never(*tok_, options_);
  options_.frame_message = FrameMessage::kAlways;
  const Templates always(*tok_, options_);
  options_.frame_message = FrameMessage::kTemporalAndHalf;
  const Templates half(*tok_, options_);
  EXPECT_EQ((std::set<uint64_t>{never.fingerprint(), always.fingerprint(), half.fingerprint()}).size(), 3u);
  int with = 0;
  for (int i = 0; i < 400; ++i) {
    auto p = clip_sample(cat("clip-", i), 3).sample;
    const auto tokens = half.encode(p).tokens;
    const bool has = tokens == always.encode(p).tokens;
    EXPECT_EQ(has, tokens != never.encode(p).tokens);
    with += has;
    EXPECT_EQ(half.encode_prompt(p, 0).tokens.size(),
              tokens.size() - (never.encode(p).tokens.size() - never.encode_prompt(p, 0).tokens.size()));
    // Unknown frame rate: half of the others may go without, temporal samples and kAlways may not.
    p.mutable_media(0)->set_fps(0);
    EXPECT_EQ(half.encode(p).tokens, never.encode(p).tokens);
    EXPECT_THROW(always.encode(p), DataError);
    p.mutable_turns(1)->add_spans(0);
    EXPECT_THROW(half.encode(p), DataError);
    p.mutable_media(0)->set_fps(8);
    EXPECT_EQ(half.encode(p).tokens, always.encode(p).tokens);
  }
  EXPECT_GT(with, 200 - 50) << "400 fair coins: five standard deviations of 10";
  EXPECT_LT(with, 200 + 50);
}

TEST_F(BesideMedia, options_that_cannot_be_are_refused) {
  const auto error = [&](TextBesideMedia what, int32_t longest, int32_t frames,
                         std::shared_ptr<const Tokenizer> words) {
    TemplateOptions o = options_;
    o.beside_media = what, o.beside_media_tokens = longest, o.clip_frames = frames;
    return message_of<ConfigError>([&] { Templates(*tok_, o, words); });
  };
  EXPECT_HAS(error(TextBesideMedia::kInstruction, 512, 3, nullptr), "need a tokenizer with begin and end marks");
  EXPECT_HAS(error(TextBesideMedia::kInstruction, 2, 3, words_), "beside_media_tokens is 2");
  EXPECT_HAS(error(TextBesideMedia::kFrameTimes, 512, 0, words_), "clip_frames is 0");
  options_.frame_message = FrameMessage::kAlways;
  EXPECT_HAS(error(TextBesideMedia::kNone, 512, 0, nullptr), "clip_frames is 0");
}

}  // namespace
}  // namespace tpo
