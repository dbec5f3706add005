#include "data/tokenizer/tokenizer.h"

#include "data/tokenizer/sentencepiece.h"
#include "tests/data/data_fixture.h"
#include "tests/data/small_tokenizer.h"

namespace tpo {
namespace {

using testing::message_of;

TEST(SentencePiece, the_same_lines_give_the_same_bytes_and_other_lines_others) {
  auto lines = testing::training_lines();
  const std::string a = train_sentencepiece(lines, {.vocab_size = 320}),
                    b = train_sentencepiece(lines, {.vocab_size = 320});
  EXPECT_EQ(a, b);
  lines.push_back("An elephant walks over the purple bridge, purple and long.");
  const std::string c = train_sentencepiece(lines, {.vocab_size = 320});
  EXPECT_NE(SentencePieceTokenizer::from_bytes(a, "a")->fingerprint(),
            SentencePieceTokenizer::from_bytes(c, "c")->fingerprint());
}

TEST(SentencePiece, any_text_survives_the_round_trip) {
  for (const char* kind : {"bpe", "unigram"}) {
    const auto t =
        SentencePieceTokenizer::from_bytes(train_sentencepiece(testing::training_lines(), {310, kind}), kind);
    EXPECT_EQ(t->vocab_size(), 310);
    EXPECT_EQ(t->bos(), 1);
    EXPECT_EQ(t->eos(), 2);
    for (const std::string text :
         {"Where is the red circle?", "never seen: Zebra-42!", "two  spaces ", "Z\xc3\xbcrich \xe6\x9d\xb1", ""}) {
      EXPECT_EQ(t->decode(t->encode(text)), text) << kind;
    }
    EXPECT_NO_THROW(t->encode("\xff\xfe broken utf-8"));
  }
}

TEST(SentencePiece, frequent_words_are_short) {
  const auto t = testing::small_tokenizer();
  EXPECT_LT(t->encode("Where is the red circle?").size(), 16u);  // 24 characters
}

TEST(SentencePiece, wrong_files_and_settings_are_named) {
  const testing::ScratchFolder dir;
  testing::write_text(dir / "x.model", "this is no model");
  EXPECT_HAS(message_of<DataError>([&] { SentencePieceTokenizer::load(dir / "x.model"); }), "x.model");
  EXPECT_HAS(message_of<DataError>([&] { SentencePieceTokenizer::load(dir / "y.model"); }), "y.model is missing");
  EXPECT_HAS(message_of<DataError>([&] { SentencePieceTokenizer::from_bytes("", "z"); }), "empty");
  EXPECT_HAS(message_of<ConfigError>([&] { train_sentencepiece({"a b"}, {.vocab_size = 100}); }), "vocab_size is 100");
  EXPECT_HAS(message_of<ConfigError>([&] { train_sentencepiece({"a b"}, {.vocab_size = 5000}); }), "5000 pieces");
  EXPECT_HAS(message_of<ConfigError>([&] { train_sentencepiece({}, {.vocab_size = 300}); }), "no lines");
  EXPECT_HAS(message_of<ConfigError>([&] { train_sentencepiece({"a"}, {300, "word"}); }), "'word'");
}

TEST(Tokenizer, task_tokens_follow_the_vocabulary_and_decode_to_their_text) {
  const auto t = testing::small_tokenizer();
  EXPECT_EQ(id_of(TaskToken::kBoxBegin, *t), t->vocab_size());
  EXPECT_EQ(id_of(TaskToken::kTrackBox, *t), t->vocab_size() + 6);
  std::vector<int32_t> ids = t->encode("the red circle");
  ids.push_back(id_of(TaskToken::kBoxBegin, *t));
  ids.push_back(id_of(TaskToken::kBoxes, *t));
  EXPECT_EQ(decode_with_task_tokens(*t, ids), "the red circle<box_begin><boxes>");
  ids.push_back(t->vocab_size() + 7);
  EXPECT_THROW(decode_with_task_tokens(*t, ids), DataError);
  EXPECT_EQ(decode_written(*t, ids), cat("the red circle<box_begin><boxes><id ", t->vocab_size() + 7, ">"));
  EXPECT_TRUE(t->empty_ids().empty());
}

}  // namespace
}  // namespace tpo
