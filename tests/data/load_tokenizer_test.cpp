#include "data/tokenizer/load_tokenizer.h"

#include <filesystem>

#include "data/bytes.h"
#include "data/import/json.h"
#include "data/tokenizer/unicode.h"
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
  std::string added, all;
  for (size_t i = 0; i < json.at("added_tokens").size(); ++i) {
    const Json a = json.at("added_tokens").at(i);
    const std::string id = cat(all.empty() ? "" : ",", "\"", a.at("id").integer(), "\":");
    all += cat(id, "{\"content\":\"", a.at("content").text(), "\"");
    for (const char* flag : {"special", "lstrip", "rstrip", "single_word", "normalized"})
      all += cat(",\"", flag, "\":", a.at(flag).boolean() ? "true" : "false");
    all += "}";
    if (!a.at("special").boolean()) continue;
    added += cat(added.empty() ? "" : ",", "\"", a.at("id").integer(), "\":{\"content\":\"", a.at("content").text(),
                 "\",\"special\":true}");
  }
  const auto configure = [&](const std::string& tokens) {
    put("tokenizer_config.json",
        cat("{\"tokenizer_class\":\"Qwen2Tokenizer\",\"eos_token\":{\"content\":\"<|endoftext|>\"},"
            "\"added_tokens_decoder\":{",
            tokens, "}}"));
  };
  configure(added);
  const auto t = load_tokenizer(dir_ / "merges.txt");
  put("tokenizer.json", whole);
  const auto same = load_tokenizer(dir_.path());
  for (const char* text : {"It's e\u0301tude, \u6771\u4eac 12", "<|im_start|>user\nHello  there", "\xf0\x9f\x91\x8d"})
    EXPECT_EQ(t->encode_with_special(text), same->encode_with_special(text)) << text;
  EXPECT_EQ(t->eos(), 0);  // as its configuration says
  EXPECT_EQ(same->eos(), 0);
  EXPECT_NE(t->fingerprint(), same->fingerprint());  // it has fewer added tokens
  configure(all);
  EXPECT_EQ(load_tokenizer(dir_ / "merges.txt")->fingerprint(), same->fingerprint());
  put("tokenizer_config.json", R"({"tokenizer_class":"GPT2Tokenizer","add_prefix_space":true,"eos_token":"!"})");
  EXPECT_EQ(load_tokenizer(dir_ / "merges.txt")->encode("the"), same->encode(" the"));
  put("tokenizer_config.json", R"({"tokenizer_class":"Qwen2Tokenizer","add_prefix_space":true})");
  EXPECT_HAS(message_of<DataError>([&] { load_tokenizer(dir_ / "merges.txt"); }),
             "add_prefix_space: true is not known");
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
  EXPECT_EQ(more->encode("<pad>"), Ids{340});  // a word, since nothing calls it special
  EXPECT_EQ(more->encode("<boxes>"), bare->encode("<boxes>"));
  put("special_tokens_map.json", "{\"pad_token\":{\"content\":\"<pad>\"}}");
  EXPECT_EQ(load_tokenizer(dir_.path())->encode("<pad>"), bare->encode("<pad>"));
  EXPECT_HAS(error({.more_tokens = {"[X]"}}), "'[X]' cannot be added: the files have <box_begin>");
  EXPECT_EQ(decode_with_task_tokens(*more, Ids{340, 347}), "<pad><track_box>");
  put("added_tokens.json", "{\"<a>\":341,\"<b>\":341}");
  EXPECT_HAS(error(), "'<a>' and '<b>' both have id 341");
  put("added_tokens.json", "{\"<pad>\":340,\"<box_begin>\":341}");
  EXPECT_HAS(error(), "of the 7 task tokens 1 are there");
  put("added_tokens.json", "{\"<pad>\":7}");
  EXPECT_HAS(error(), "has id 7, which the vocabulary uses");
  for (const char* id : {"99999999999", "2147483647", "16777216", "-1"}) {
    put("added_tokens.json", cat("{\"<pad>\":", id, "}"));
    EXPECT_HAS(error(), "is out of range; legal: 0 to 16777215");
  }
  put("added_tokens.json", "{\"<pad>\":350}");
  EXPECT_EQ(load_tokenizer(dir_.path())->empty_ids(), (std::vector<std::pair<int32_t, int32_t>>{{340, 350}}));
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
  const std::string other = error({.more_tokens = {}, .vocab_size = 0, .fingerprint = t->fingerprint()});
  EXPECT_HAS(other, "encodes differently");
  EXPECT_HAS(other, cat("other Unicode tables (here ", unicode_version(), ")"));
}

TEST_F(LoadTokenizer, sentencepiece_takes_the_marks_of_its_configuration) {
  put("tokenizer.model", train_sentencepiece(testing::training_lines(), {.vocab_size = 340}));
  const auto own = load_tokenizer(dir_.path());
  put("tokenizer_config.json", R"({"bos_token":"<s>","eos_token":{"content":"</s>"},"legacy":true})");
  EXPECT_EQ(load_tokenizer(dir_.path())->fingerprint(), own->fingerprint());  // nothing else than the model says
  put("tokenizer_config.json", R"({"bos_token":null,"eos_token":"<|im_end|>","added_tokens_decoder":
      {"340":{"content":"<|im_start|>","special":true},"341":{"content":"<|im_end|>","special":true}}})");
  const auto chat = load_tokenizer(dir_.path());
  EXPECT_EQ(chat->eos(), 341);
  EXPECT_EQ(chat->bos(), own->bos());
  EXPECT_NE(chat->fingerprint(), own->fingerprint());
  put("tokenizer_config.json", R"({"eos_token":"<|end|>"})");
  EXPECT_HAS(error(), "the mark '<|end|>' is no token");
  put("tokenizer_config.json", R"({"legacy":false})");
  EXPECT_HAS(error(), "legacy: false is not known");
  EXPECT_HAS(error(), "set legacy to true in this file");
}

TEST_F(LoadTokenizer, classes_that_use_a_sentencepiece_model_in_another_way_are_refused) {
  put("tokenizer.model", train_sentencepiece(testing::training_lines(), {.vocab_size = 340}));
  for (const char* kind : {"LlamaTokenizer", "LlamaTokenizerFast", "MistralTokenizer", "PreTrainedTokenizerFast"}) {
    put("tokenizer_config.json", cat("{\"tokenizer_class\":\"", kind, "\",\"add_prefix_space\":true}"));
    EXPECT_NO_THROW(load_tokenizer(dir_.path())) << kind;
  }
  for (const char* kind : {"XLMRobertaTokenizer", "T5TokenizerFast", "AlbertTokenizer"}) {
    put("tokenizer_config.json", cat("{\"tokenizer_class\":\"", kind, "\"}"));
    EXPECT_HAS(error(), cat("tokenizer_class: '", kind, "' is not known beside a SentencePiece model"));
  }
  put("tokenizer_config.json", R"({"tokenizer_class":null,"add_prefix_space":false})");
  EXPECT_HAS(error(), "add_prefix_space: false is not known");
}

// First ids of "the" and of " the" by transformers 4.46 and 5.24 (AutoTokenizer, both fixtures, all combinations).
TEST_F(LoadTokenizer, a_space_before_the_text_is_what_transformers_makes_of_both_files) {
  const std::string off = "\"add_prefix_space\":false", on = "\"add_prefix_space\":true";
  std::string plain = fixture("gpt2.json"), spaced = plain;
  const size_t at = spaced.find(off);
  ASSERT_NE(at, std::string::npos);
  spaced.replace(at, off.size(), on);
  const auto first = [&](const std::string& json, const std::string& config) {
    put("tokenizer.json", json);
    put("tokenizer_config.json", "{" + config + "}");
    return load_tokenizer(dir_.path())->encode("the cat").at(0);
  };
  const std::string gpt2 = "\"tokenizer_class\":\"GPT2Tokenizer\"",
                    any = "\"tokenizer_class\":\"PreTrainedTokenizerFast\"";
  for (const std::string& json : {plain, spaced}) {
    EXPECT_EQ(first(json, gpt2), 322);
    EXPECT_EQ(first(json, gpt2 + "," + off), 322);
    EXPECT_EQ(first(json, gpt2 + "," + on), 633);
  }
  EXPECT_EQ(first(plain, any + "," + off), 322);
  EXPECT_EQ(first(spaced, any + "," + on), 633);
  EXPECT_EQ(first(spaced, any), 633);
  EXPECT_HAS(message_of<DataError>([&] { first(plain, any + "," + on); }), "make it what tokenizer.json says");
  EXPECT_HAS(message_of<DataError>([&] { first(spaced, off); }), "add_prefix_space: false is not known");
  EXPECT_HAS(message_of<DataError>([&] { first(fixture("qwen2.json"), on); }), "add_prefix_space: true is not known");
}

TEST_F(LoadTokenizer, wordpiece_follows_its_configuration) {
  put("vocab.txt", kVocab + "Cup\ncu\u0301p\n");
  const auto plain = load_tokenizer(dir_.path());
  EXPECT_EQ(plain->encode("the Cup cu\u0301p"), (Ids{4, 5, 5}));
  put("tokenizer_config.json", R"({"do_lower_case":true,"strip_accents":null,"cls_token":"[CLS]","added_tokens_decoder":
      {"1":{"content":"[UNK]","special":true},"0":{"content":"[PAD]","special":true}}})");
  EXPECT_EQ(load_tokenizer(dir_.path())->fingerprint(), plain->fingerprint());
  put("tokenizer_config.json", R"({"do_lower_case":false})");
  EXPECT_EQ(load_tokenizer(dir_.path())->encode("the Cup The"), (Ids{4, 6, 1}));
  put("tokenizer_config.json", R"({"do_basic_tokenize":false})");
  EXPECT_HAS(error(), "do_basic_tokenize false is not known");
  put("tokenizer_config.json", R"({"never_split":["a"]})");
  EXPECT_HAS(error(), "never_split: is not known");
}

// As folders come from the hub: several files say the same, and tokenizer.json may be of any kind.
TEST_F(LoadTokenizer, of_several_kinds_in_one_folder_the_one_that_is_known_is_read) {
  put("tokenizer.json", R"({"normalizer":{"type":"BertNormalizer"},"model":{"type":"WordPiece","vocab":{}}})");
  EXPECT_HAS(error(), "tokenizer.json: type is WordPiece, not BPE; give vocab.txt beside it");
  put("vocab.txt", kVocab);
  EXPECT_EQ(load_tokenizer(dir_.path())->encode("the cup"), (Ids{4, 5}));
  EXPECT_HAS(message_of<DataError>([&] { load_tokenizer(dir_ / "tokenizer.json"); }), "give vocab.txt");
  put("tokenizer.json", fixture("gpt2.json"));
  const uint64_t bpe = load_tokenizer(dir_.path())->fingerprint();
  EXPECT_EQ(bpe, load_tokenizer(dir_ / "tokenizer.json")->fingerprint());
  put("tokenizer.model", train_sentencepiece(testing::training_lines(), {.vocab_size = 340}));
  EXPECT_EQ(load_tokenizer(dir_.path())->vocab_size(), 340);
  std::filesystem::remove(dir_ / "tokenizer.model");
  std::filesystem::remove(dir_ / "vocab.txt");
  for (const char* model : {R"({"type":"Unigram"})", R"({"type":"BPE","byte_fallback":true})"}) {
    put("tokenizer.json", cat(R"({"normalizer":{"type":"Prepend"},"model":)", model, "}"));
    EXPECT_HAS(error(), "give tokenizer.model beside it");
  }
}

TEST_F(LoadTokenizer, an_end_mark_that_no_file_names_is_asked_for) {
  std::string json = fixture("gpt2.json");
  for (size_t at = 0; (at = json.find("<|endoftext|>", at)) != std::string::npos;) json.replace(at, 13, "<|eot_id|>");
  put("tokenizer.json", json);
  EXPECT_HAS(error(), "name it as eos_token in tokenizer_config.json beside it");
  put("tokenizer_config.json", R"({"eos_token":"<|eot_id|>"})");
  EXPECT_GE(load_tokenizer(dir_.path())->eos(), 0);
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
