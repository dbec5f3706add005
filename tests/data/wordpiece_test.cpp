#include "data/tokenizer/wordpiece.h"

#include <set>

#include "tests/data/data_fixture.h"

namespace tpo {
namespace {

using testing::message_of;
using Ids = std::vector<int32_t>;

const std::string kVocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\ncup\n##s\n.\n$\nunder\n##stand\n\u6771\nI\ni\nresume\n";

TEST(WordPiece, cleans_lower_cases_and_cuts) {
  const WordPieceTokenizer t(kVocab, "v");
  EXPECT_EQ(t.bos(), 2);
  EXPECT_EQ(t.eos(), 3);
  const struct {
    const char* text;
    Ids ids;
  } cases[] = {{"", {}},
               {" \t\n ", {}},
               {"The CUPs.", {4, 5, 6, 7}},
               {"cup$the", {5, 8, 4}},
               {"under\u200bstand\x01s", {9, 10, 6}},  // formats and controls are taken out
               {"the\u00a0cup\u2028the", {4, 5, 4}},
               {"the\u6771\u6771cup", {4, 11, 11, 5}},  // ideographs are words
               {"R\u00c9SUM\u00c9 re\u0301sume", {14, 14}},
               {"\u0130", {13}},
               {"cupx the", {1, 4}},  // no piece for x: the whole word is unknown
               {"\xff"
                "cup\xfe",
                {5}},
               {"[SEP] [UNK]", {1, 1, 1, 1, 1, 1}}};  // marks are text
  for (const auto& c : cases) EXPECT_EQ(t.encode(c.text), c.ids) << c.text;
  EXPECT_EQ(t.encode_with_special("the[SEP]cup"), (Ids{4, 3, 5}));
  EXPECT_EQ(t.encode("s" + std::string(99, 's')), Ids{1});
  std::string longest = "under";
  while (longest.size() < 100) longest += "s";
  EXPECT_EQ(t.encode(longest).size(), 96u);
  EXPECT_EQ(t.encode(longest + "s"), Ids{1});  // 101 characters
  EXPECT_EQ(t.encode(std::string(1'000'000, 's')), Ids{1});
  EXPECT_EQ(t.decode(Ids{2, 4, 5, 6, 7, 3}), "the cups .");
}

TEST(WordPiece, rules_are_those_of_transformers) {
  const std::string vocab = kVocab + "r\u00e9sum\u00e9\nR\u00e9sum\u00e9\nResume\n\u6771\u6771\n";
  const std::string text = "R\u00e9sum\u00e9 \u6771\u6771";
  const struct {
    WordPieceRules rules;
    Ids ids;  // of transformers' BertTokenizer 4.46 with these settings
  } cases[] = {{{}, {14, 11, 11}},
               {{.lower_case = true, .strip_accents = false}, {15, 11, 11}},
               {{.lower_case = false}, {16, 11, 11}},
               {{.lower_case = false, .strip_accents = true}, {17, 11, 11}},
               {{.ideographs_apart = false}, {14, 18}}};
  std::set<uint64_t> fingerprints;
  for (const auto& c : cases) {
    const WordPieceTokenizer t(vocab, "v", {}, c.rules);
    EXPECT_EQ(t.encode(text), c.ids) << c.rules.lower_case << c.rules.ideographs_apart;
    EXPECT_TRUE(fingerprints.insert(t.fingerprint()).second);
  }
  const WordPieceTokenizer same(vocab, "w", {}, {.lower_case = true, .strip_accents = true});
  EXPECT_FALSE(fingerprints.insert(same.fingerprint()).second);
}

TEST(WordPiece, wrong_vocabularies_are_named) {
  EXPECT_HAS(message_of<DataError>([&] { WordPieceTokenizer("[UNK]\n\n[CLS]\n", "v.txt"); }), "v.txt: line 2 is empty");
  EXPECT_HAS(message_of<DataError>([&] { WordPieceTokenizer("[UNK]\na\n[CLS]\na\n", "v"); }), "already in line 2");
  EXPECT_HAS(message_of<DataError>([&] { WordPieceTokenizer("[UNK]\n[CLS]\n", "v"); }), "no [SEP]");
}

}  // namespace
}  // namespace tpo
