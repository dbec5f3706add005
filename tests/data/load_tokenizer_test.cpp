#include "data/tokenizer/load_tokenizer.h"

#include "data/bytes.h"
#include "data/import/json.h"
#include "tests/data/data_fixture.h"
#include "tests/data/small_tokenizer.h"

namespace tpo {
namespace {

using testing::message_of;
using Ids = std::vector<int32_t>;

const std::string kVocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\ncup\n";

class LoadTokenizer : public ::testing::Test {
 protected:
  void put(const std::string& name, const std::string& text) { testing::write_text(dir_ / name, text); }
  std::string error(const TokenizerRequest& request = {}) {
    return message_of<DataError>([&] { load_tokenizer(dir_.path(), request); });
  }
  static std::string fixture(const std::string& name) {
    return read_file(std::string(TPO_SOURCE_DIR) + "/tests/data/fixtures/tokenizers/" + name);
  }
  testing::ScratchFolder dir_;
};

TEST_F(LoadTokenizer, vocabulary_and_merges_equal_the_one_file) {
  const std::string whole = fixture("qwen2.json");
  const Json json = Json::parse(whole, "q");
  const size_t from = whole.find("\"vocab\":") + 8, to = whole.find(",\"merges\"");
  put("vocab.json", whole.substr(from, to - from));
  std::string merges = "#version: 0.2\r\n";
  const Json list = json.at("model").at("merges");
  for (size_t i = 0; i < list.size(); ++i) {
    const Json m = list.at(i);
    merges += m.is(Json::Kind::kString) ? m.text() + "\n" : m.at(0).text() + " " + m.at(1).text() + "\n";
  }
  put("merges.txt", merges);
  EXPECT_HAS(error(), "must name tokenizer_class");
  std::string added;
  for (size_t i = 0; i < json.at("added_tokens").size(); ++i) {
    const Json a = json.at("added_tokens").at(i);
    if (!a.at("special").boolean()) continue;
    added += cat(added.empty() ? "" : ",", "\"", a.at("id").integer(), "\":{\"content\":\"", a.at("content").text(),
                 "\",\"special\":true}");
  }
  put("tokenizer_config.json",
      cat("{\"tokenizer_class\":\"Qwen2Tokenizer\",\"eos_token\":{\"content\":\"<|endoftext|>\"},"
          "\"added_tokens_decoder\":{",
          added, "}}"));
  const auto t = load_tokenizer(dir_ / "merges.txt");
  put("tokenizer.json", whole);
  const auto same = load_tokenizer(dir_.path());
  for (const char* text : {"It's e\u0301tude, \u6771\u4eac 12", "<|im_start|>user\nHello  there", "\xf0\x9f\x91\x8d"})
    EXPECT_EQ(t->encode_with_special(text), same->encode_with_special(text)) << text;
  EXPECT_EQ(t->eos(), 0);  // as its configuration says
  EXPECT_EQ(same->eos(), 0);
  EXPECT_NE(t->fingerprint(), same->fingerprint());  // it has fewer added tokens
}

TEST_F(LoadTokenizer, sentencepiece_takes_added_tokens_and_task_tokens_stay_last) {
  const std::string model = train_sentencepiece(testing::training_lines(), {.vocab_size = 340});
  put("tokenizer.model", model);
  const auto bare = load_tokenizer(dir_.path());
  EXPECT_EQ(bare->vocab_size(), 340);
  EXPECT_EQ(bare->encode_with_special("red<boxes></s>"), [&] {
    Ids ids = bare->encode("red");
    ids.insert(ids.end(), {id_of(TaskToken::kBoxes, *bare), bare->eos()});
    return ids;
  }());
  std::string task;
  for (size_t i = 0; i < kTaskTokenText.size(); ++i) task += cat(",\"", kTaskTokenText[i], "\":", 341 + i);
  put("added_tokens.json", "{\"<pad>\":340" + task + "}");
  const auto more = load_tokenizer(dir_.path());
  EXPECT_EQ(more->vocab_size(), 341);
  EXPECT_EQ(id_of(TaskToken::kBoxBegin, *more), 341);
  EXPECT_EQ(more->encode_with_special("<pad><track_box>"), (Ids{340, 347}));
  EXPECT_EQ(more->encode("<pad>"), bare->encode("<pad>"));
  EXPECT_EQ(decode_with_task_tokens(*more, Ids{340, 347}), "<pad><track_box>");
  put("added_tokens.json", "{\"<a>\":341,\"<b>\":341}");
  EXPECT_HAS(error(), "'<a>' and '<b>' both have id 341");
  put("added_tokens.json", "{\"<pad>\":340,\"<box_begin>\":341}");
  EXPECT_HAS(error(), "of the 7 task tokens 1 are there");
  put("added_tokens.json", "{\"<pad>\":7}");
  EXPECT_HAS(error(), "has id 7, which the vocabulary uses");
  put("added_tokens.json", "{\"<pad>\":");
  EXPECT_HAS(error(), "added_tokens.json: not JSON");
}

TEST_F(LoadTokenizer, tokens_put_behind_and_the_tokenizer_of_another_model) {
  put("vocab.txt", kVocab);
  const auto t = load_tokenizer(dir_.path(), {.more_tokens = {"[DEC]"}});
  EXPECT_EQ(t->vocab_size(), 7);
  EXPECT_EQ(t->encode_with_special("the [DEC] cup"), (Ids{4, 6, 5}));
  EXPECT_NE(t->fingerprint(), load_tokenizer(dir_ / "vocab.txt")->fingerprint());
  EXPECT_NO_THROW(load_tokenizer(dir_.path(), {.more_tokens = {}, .vocab_size = 6}));
  EXPECT_HAS(error({.more_tokens = {}, .vocab_size = 30522}), "has 6 tokens, but the model was made for 30522");
  EXPECT_HAS(error({.more_tokens = {}, .vocab_size = 0, .fingerprint = t->fingerprint()}), "encodes differently");
}

TEST_F(LoadTokenizer, what_is_no_tokenizer_is_said) {
  EXPECT_HAS(error(), "holds no tokenizer");
  put("a.tiktoken", "YWE= 0\n");
  EXPECT_HAS(error(), "has 1 ranks");
  put("b.tiktoken", "YWE= 0\n");
  EXPECT_HAS(error(), "holds several tokenizer");
  EXPECT_HAS(message_of<DataError>([&] { load_tokenizer(dir_ / "absent.json"); }), "absent.json is missing");
}

}  // namespace
}  // namespace tpo
