#include "data/tokenizer/byte_bpe.h"

#include "data/bytes.h"
#include "data/import/json.h"
#include "data/tokenizer/unicode.h"
#include "tests/data/data_fixture.h"

namespace tpo {
namespace {

using testing::message_of;
using Ids = std::vector<int32_t>;

TEST(Unicode, normal_forms_follow_annex_15) {
  const struct {
    const char *text, *composed, *decomposed;
  } cases[] = {
      {"plain", "plain", "plain"},
      {"e\u0301", "\u00e9", "e\u0301"},
      {"\u0344", "\u0308\u0301", "\u0308\u0301"},           // excluded from composition
      {"\u212b", "\u00c5", "A\u030a"},                      // a singleton
      {"q\u0307\u0323", "q\u0323\u0307", "q\u0323\u0307"},  // marks into order
      {"\u1e0b\u0323", "\u1e0d\u0307", "d\u0323\u0307"},    // and only then composed
      {"a\u0315\u0300\u05ae\u0301", "\u00e0\u05ae\u0301\u0315", "a\u05ae\u0300\u0301\u0315"},  // blocked by class
      {"\u1100\u1161\u11a8", "\uac01", "\u1100\u1161\u11a8"},                                  // hangul
      {"e\xff\u0301", "e\xff\u0301", "e\xff\u0301"},  // a broken byte parts what it stands between
  };
  for (const auto& c : cases) {
    EXPECT_EQ(nfc(c.text), c.composed) << c.text;
    EXPECT_EQ(nfd(c.text), c.decomposed) << c.text;
  }
}

std::string joined(const std::vector<std::string_view>& words) {
  std::string text;
  for (const auto& w : words) text += (text.empty() ? "" : "|") + std::string(w);
  return text;
}

TEST(SplitWords, every_alternative_of_the_expressions) {
  const struct {
    const char *text, *gpt2, *qwen2, *cl100k, *tiktoken;
  } cases[] = {
      {"", "", "", "", ""},
      {"we'll I'D x's", "we|'ll| I|'|D| x|'s", "we|'ll| I|'D| x|'s", "we|'ll| I|'D| x|'s", "we|'ll| I|'D| x|'s"},
      {"a'\u017f", "a|'|\u017f", "a|'\u017f", "a|'\u017f", "a|'\u017f"},
      {"x12345", "x|12345", "x|1|2|3|4|5", "x|123|45", "x|123|45"},
      {"(a) \u00e9!?\r\n\nb", "(|a|)| \u00e9|!?|\r\n|\n|b", "(a|)| \u00e9|!?\r\n\n|b", "(a|)| \u00e9|!?\r\n\n|b",
       "(a|)| \u00e9|!?\r\n\n|b"},
      {"a  b \n  c", "a| | b| \n | c", "a| | b| \n| | c", "a| | b| \n| | c", "a| | b| \n| | c"},
      {"a \n ", "a| \n ", "a| \n| ", "a| \n| ", "a| \n "},
      {"\t7 \u00a0x", "\t|7| |\u00a0|x", "\t|7| |\u00a0x", "\t|7| |\u00a0x", "\t|7| |\u00a0x"},
      {"e\u0301 \xff\xfe", "e|\u0301| \xff\xfe", "e|\u0301| \xff\xfe", "e|\u0301| \xff\xfe", "e|\u0301| \xff\xfe"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(joined(split_words(WordRule::kGpt2, c.text)), c.gpt2) << c.text;
    EXPECT_EQ(joined(split_words(WordRule::kQwen2, c.text)), c.qwen2) << c.text;
    EXPECT_EQ(joined(split_words(WordRule::kCl100k, c.text)), c.cl100k) << c.text;
    EXPECT_EQ(joined(split_words(WordRule::kTiktoken, c.text)), c.tiktoken) << c.text;
  }
}

// 256 bytes, then what merges make: ids from 256 on.
ByteBpeModel bytes_and(std::vector<ByteBpeModel::Merge> merges) {
  ByteBpeModel m;
  m.name = "small";
  for (int b = 0; b < 256; ++b) m.tokens.emplace_back(1, static_cast<char>(b));
  for (const auto& x : merges)
    m.tokens.push_back(m.tokens[static_cast<size_t>(x.left)] + m.tokens[static_cast<size_t>(x.right)]);
  m.merges = std::move(merges);
  m.added = {{.text = "<e>", .id = static_cast<int32_t>(m.tokens.size())}};
  m.eos = "<e>";
  return m;
}

// The definition: again and again the leftmost pair of the lowest rank.
Ids merged_plainly(const ByteBpeModel& m, const std::string& word) {
  Ids ids;
  for (char c : word) ids.push_back(static_cast<unsigned char>(c));
  while (true) {
    size_t at = ids.size();
    const ByteBpeModel::Merge* best = nullptr;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (const auto& x : m.merges) {
        if (x.left == ids[i] && x.right == ids[i + 1] && (best == nullptr || x.rank < best->rank)) best = &x, at = i;
      }
    }
    if (best == nullptr) return ids;
    ids[at] = best->result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(ByteBpe, merging_equals_its_definition) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const RngKey key(seed);
    std::vector<ByteBpeModel::Merge> merges;
    const auto symbol = [&](uint64_t counter) {  // of "abc", or an earlier result
      const auto pick = static_cast<int32_t>(uniform_below(key, counter, 3 + merges.size()));
      return pick < 3 ? 'a' + pick : 253 + pick;
    };
    std::vector<std::pair<int32_t, int32_t>> seen;
    ByteBpeModel m;
    for (uint64_t k = 0; k < 60 && merges.size() < 12; ++k) {
      const std::pair<int32_t, int32_t> pair{symbol(2 * k), symbol(2 * k + 1)};
      const auto n = static_cast<int32_t>(merges.size());
      auto more = merges;
      more.push_back({pair.first, pair.second, 256 + n, n / 2});  // ranks in pairs: position decides among equals
      m = bytes_and(more);
      const bool fresh_text = std::count(m.tokens.begin(), m.tokens.end(), m.tokens.back()) == 1;
      if (fresh_text && std::find(seen.begin(), seen.end(), pair) == seen.end()) merges = more, seen.push_back(pair);
    }
    m = bytes_and(merges);
    const ByteBpeTokenizer t(m);
    for (uint64_t w = 0; w < 50; ++w) {
      std::string word;
      for (uint64_t i = 0; i <= w; ++i) word += static_cast<char>('a' + uniform_below(key, 1000 + 60 * w + i, 3));
      ASSERT_EQ(t.encode(word), merged_plainly(m, word)) << "seed " << seed << " " << word;
    }
  }
}

TEST(ByteBpe, bytes_of_any_kind_come_back_and_a_long_word_is_no_trouble) {
  const ByteBpeTokenizer t(bytes_and({{'a', 'a', 256, 0}, {256, 256, 257, 1}, {257, 257, 258, 2}}));
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::string text;
    for (uint64_t i = 0; i < seed; ++i) text += static_cast<char>(uniform_below(RngKey(seed), i, 256));
    EXPECT_EQ(t.decode(t.encode(text)), text);
  }
  EXPECT_EQ(t.encode(std::string(1'000'000, 'a')), Ids(125'000, 258));
  std::string marks = "e";
  for (int i = 0; i < 200'000; ++i) marks += i % 2 == 0 ? "\u0301" : "\u0323";  // 200,000 marks to put in order
  EXPECT_EQ(nfc(marks).substr(0, 3), "\u1eb9");
}

TEST(ByteBpe, tiktoken_merges_any_neighbours_that_are_a_token_and_takes_whole_words) {
  // a, b and all other bytes, then aa = 256, aaa = 257; "aabb" = 258 cannot be reached by merges.
  std::string lines;
  const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (int b = 0; b < 256; ++b) lines += cat(std::string{digits[b >> 2], digits[(b & 3) << 4]}, "== ", b, "\n");
  ByteBpeModel m = read_tiktoken(lines + "YWE= 256\nYWFh 257\nYWFiYg== 258\n", "t");
  m.added = {{.text = "<e>", .id = 300}};
  m.eos = "<e>";
  const ByteBpeTokenizer t(m);
  EXPECT_EQ(t.encode("aaaa"), (Ids{256, 256}));  // aa has the lowest rank, and (aa)(aa) no token
  EXPECT_EQ(t.encode("aaaaa"), (Ids{256, 257}));
  EXPECT_EQ(t.encode("aabb"), Ids{258});
  EXPECT_EQ(t.encode("aabba"), (Ids{256, 'b', 'b', 'a'}));
  EXPECT_EQ(t.vocab_size(), 301);
  EXPECT_EQ(t.decode(Ids{258, 300, 97}), "aabba");
  for (const int32_t empty : {270, 259, 299})
    EXPECT_HAS(message_of<DataError>([&] { t.decode(Ids{97, empty}); }), cat(empty, " stands for nothing"));
  EXPECT_EQ(t.empty_ids(), (std::vector<std::pair<int32_t, int32_t>>{{259, 300}}));
  EXPECT_EQ(decode_written(t, Ids{258, 270, 271, 300, 303, 97}), "aabb<id 270><id 271><temp>a");
  for (const char* bad : {"YWE=256\n", "YW?= 3\n", "YWE 3\n", "Y=E= 3\n", "YWE= x\n", "YWE= 3\nYWI= 3\n", "= 1\n"}) {
    EXPECT_HAS(message_of<DataError>([&] { read_tiktoken(bad, "ranks"); }), "ranks: ");
  }
}

TEST(ByteBpe, gaps_of_the_vocabulary_are_named_and_may_be_filled) {
  ByteBpeModel m = bytes_and({{'a', 'b', 256, 0}, {'b', 'c', 257, 1}, {'c', 'd', 258, 2}});
  m.merges = {m.merges[2]};
  m.tokens[256] = m.tokens[257] = "";
  m.added.push_back({.text = "<far>", .id = 262});
  using Ranges = std::vector<std::pair<int32_t, int32_t>>;
  EXPECT_EQ(ByteBpeTokenizer(m).empty_ids(), (Ranges{{256, 258}, {260, 262}}));
  m.added.push_back({.text = "<fills>", .id = 257});
  const ByteBpeTokenizer t(m);
  EXPECT_EQ(t.empty_ids(), (Ranges{{256, 257}, {260, 262}}));
  EXPECT_EQ(t.encode_with_special("a<fills>cd"), (Ids{'a', 257, 258}));
  EXPECT_EQ(t.decode(Ids{'a', 257, 258}), "a<fills>cd");
  m.added.back().id = 258;
  EXPECT_HAS(message_of<DataError>([&] { ByteBpeTokenizer{m}; }), "has id 258, which the vocabulary uses");
}

TEST(ByteBpe, added_tokens_are_compared_as_the_vocabulary_writes_them) {
  ByteBpeModel m = bytes_and({{' ', ' ', 256, 0}});
  m.added.push_back({.text = "  ", .id = 258, .special = false});  // 256 is written as two U+0120
  const ByteBpeTokenizer t(m);
  EXPECT_EQ(t.encode("a  b   c"), (Ids{'a', 258, 'b', 258, ' ', 'c'}));
  EXPECT_EQ(t.decode(Ids{256, 258}), "    ");
  m.added.back().text = "\u0120\u0120";
  EXPECT_HAS(message_of<DataError>([&] { ByteBpeTokenizer{m}; }), "but the vocabulary has it as 256");
}

TEST(Unicode, letters_in_circles_are_parts_of_words) {
  for (const int32_t c : {0x24B6, 0x24E9, 0x1F130, 0x1F189, 0x41, 0x301, 0x203F, 0x200D}) EXPECT_TRUE(is_word(c)) << c;
  for (const int32_t c : {0x24B5, 0x24EA, 0x1F12F, 0x1F14A, 0x20, 0xB2, -1}) EXPECT_FALSE(is_word(c)) << c;
}

std::string fixture(const std::string& name) {
  return std::string(TPO_SOURCE_DIR) + "/tests/data/fixtures/tokenizers/" + name;
}

ByteBpeTokenizer tokenizer_of(const std::string& name) {
  ByteBpeModel model = read_tokenizer_json(read_file(fixture(name)), name);
  model.eos = model.added.size() > 1 ? "<|im_end|>" : "<|endoftext|>";
  return ByteBpeTokenizer(std::move(model));
}

// Ids of the package tokenizers 0.20; fixtures by tests/data/tokenizer_oracle.py --golden.
TEST(ByteBpe, ids_equal_the_public_package) {
  for (const char* name : {"gpt2", "qwen2", "cl100k"}) {
    const ByteBpeTokenizer t = tokenizer_of(cat(name, ".json"));
    const Json golden = Json::parse_file(fixture(cat(name, ".ids.json")));
    EXPECT_GT(golden.size(), 250u);
    for (size_t i = 0; i < golden.size(); ++i) {
      const auto ids = golden.at(i).at(1).numbers();
      EXPECT_EQ(t.encode_with_special(golden.at(i).at(0).text()), Ids(ids.begin(), ids.end())) << name << " " << i;
    }
  }
}

TEST(ByteBpe, special_tokens_are_text_unless_asked_for) {
  const ByteBpeTokenizer t = tokenizer_of("qwen2.json");
  const std::string text = "a<|im_end|>b<boxes>";
  const Ids with = t.encode_with_special(text), plain = t.encode(text);
  EXPECT_EQ(with.size(), 4u);
  EXPECT_EQ(with[1], t.eos());
  EXPECT_EQ(with[3], id_of(TaskToken::kBoxes, t));
  EXPECT_EQ(std::count(plain.begin(), plain.end(), t.eos()), 0);
  EXPECT_EQ(t.decode(plain), text);
  EXPECT_EQ(decode_with_task_tokens(t, with), "ab<boxes>");
}

TEST(ByteBpe, wrong_files_are_refused_with_one_clear_error) {
  const std::string good = read_file(fixture("qwen2.json"));
  const auto error = [&](const std::string& from, const std::string& to) {
    std::string bad = good;
    const size_t at = bad.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    bad.replace(at, from.size(), to);
    return message_of<DataError>([&] {
      ByteBpeModel m = read_tokenizer_json(bad, "t.json");
      m.eos = "<|im_end|>";
      ByteBpeTokenizer{m};
    });
  };
  EXPECT_HAS(message_of<DataError>([&] { read_tokenizer_json(good.substr(0, good.size() / 2), "t.json"); }),
             "not JSON");
  EXPECT_HAS(error(R"(\\p{N}|)", R"(\\p{N}{1,2}|)"), R"(\p{N}{1,2}| ?[^\s)");
  EXPECT_HAS(error("\"NFC\"", "\"NFKC\""), "NFKC is not known");
  EXPECT_HAS(error("\"Isolated\"", "\"Removed\""), "behavior Isolated");
  EXPECT_HAS(error("\"type\":\"ByteLevel\"", "\"type\":\"Metaspace\""), "no byte-level BPE");
  EXPECT_HAS(error("\"type\":\"BPE\"", "\"type\":\"Unigram\""), "Unigram, not BPE");
  EXPECT_HAS(error("\"byte_fallback\":false", "\"byte_fallback\":true"), "byte_fallback");
  EXPECT_HAS(error("\"dropout\":null", "\"dropout\":0.1"), "dropout: is set");
  EXPECT_HAS(error("\"!\":1,", "\"!\":2,"), "both have id 2");
  EXPECT_HAS(error("\"!\":1,", "\"!\":1e300,"), "whole number");
  EXPECT_HAS(error("\"!\":1,", "\"!\":1e999,"), "not JSON");
  EXPECT_HAS(error("\"!\":1,", "\"!\":16777216,"), "out of range");
  EXPECT_HAS(error("\"!\":1,", cat("\"", std::string(1025, 'x'), "\":1,")), "has 1025 bytes");
  EXPECT_HAS(error("\"!\":1,", ""), "byte 33 has no token");
  EXPECT_HAS(error("\"merges\":[", "\"merges\":[[\"!\",\"QZZ\"],"), "merge 0 ('!' 'QZZ') names a token");
  EXPECT_HAS(error("\"merges\":[", "\"merges\":[\"! Q\","), "makes a token that is not");
  EXPECT_HAS(error("\"merges\":[", "\"merges\":[\"!Q\","), "not two tokens");
  EXPECT_HAS(error("\"content\":\"<|im_end|>\"", "\"content\":\"<|im_start|>\""), "'<|im_start|>' has two ids");
  EXPECT_HAS(error("\"content\":\"<|im_end|>\"", "\"content\":\"!\""), "but the vocabulary has it as 1");
  EXPECT_HAS(error("{\"id\":0,", "{\"id\":5,"), "<|endoftext|>' has id 5, but");
  const std::string one = "\"content\":\"<|im_end|>\"";
  EXPECT_HAS(error(one, "\"content\":\"<boxes>\""), "1 are there");
  EXPECT_HAS(error(one, "\"content\":\"\""), "no text");
}

}  // namespace
}  // namespace tpo
