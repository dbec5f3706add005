#include <cstdlib>
#include <filesystem>

#include "data/import/json.h"
#include "data/tokenizer/load_tokenizer.h"
#include "data/tokenizer/sentencepiece.h"
#include "tests/data/data_fixture.h"

namespace tpo {
namespace {

// Ids made with the command line of SentencePiece 0.1.97 (spm_encode --output_format=id) on the model of the public
// release, which lies beside the folder of real samples.
TEST(RealTokenizer, ids_equal_the_reference) {
  const char* folder = std::getenv("TPO_REAL_DATA");
  const std::string root = folder != nullptr ? folder : std::string(TPO_SOURCE_DIR) + "/../shared/data/real-mini";
  const std::string path = root + "/../tokenizers/mistral-7b-instruct-v0.2.model";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no file " << path << "; set TPO_REAL_DATA";
  const auto t = SentencePieceTokenizer::load(path);
  EXPECT_EQ(t->vocab_size(), 32000);
  EXPECT_EQ(id_of(TaskToken::kBoxBegin, *t), 32000);
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(t->encode("Hello world"), (Ids{22557, 1526}));
  EXPECT_EQ(t->encode("[INST] Where is the red cup? [/INST]"),
            (Ids{733, 16289, 28793, 6926, 349, 272, 2760, 6211, 28804, 733, 28748, 16289, 28793}));
  EXPECT_EQ(t->encode("Z\xc3\xbcrich 2024, \xe6\x9d\xb1\xe4\xba\xac \xe2\x98\x95\xf0\x9f\xa6\x9c"),
            (Ids{1054,  2355,  539,   28705, 28750, 28734, 28750, 28781, 28725, 28705,
                 30366, 29936, 28705, 229,   155,   152,   243,   162,   169,   159}));
  EXPECT_EQ(t->encode(" two  spaces"), (Ids{28705, 989, 28705, 10599}));
}

// Ids of transformers 4.46: LlamaTokenizer(legacy=True) with the task tokens, BertTokenizer with [DEC]. Fixtures by
// tests/data/tokenizer_oracle.py --golden.
TEST(RealTokenizer, ids_equal_transformers) {
  const struct {
    const char *file, *golden;
    TokenizerRequest request;
  } cases[] = {{"mistral-7b-instruct-v0.2.model", "mistral.ids.json", {.more_tokens = {}, .vocab_size = 32000}},
               {"bert-base-uncased-vocab.txt", "bert.ids.json", {.more_tokens = {"[DEC]"}, .vocab_size = 30523}}};
  const char* folder = std::getenv("TPO_REAL_DATA");
  const std::string root = folder != nullptr ? folder : std::string(TPO_SOURCE_DIR) + "/../shared/data/real-mini";
  for (const auto& c : cases) {
    const std::string path = root + "/../tokenizers/" + c.file;
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "no file " << path << "; set TPO_REAL_DATA";
    const auto t = load_tokenizer(path, c.request);
    const Json golden = Json::parse_file(std::string(TPO_SOURCE_DIR) + "/tests/data/fixtures/tokenizers/" + c.golden);
    EXPECT_GT(golden.size(), 250u);
    for (size_t i = 0; i < golden.size(); ++i) {
      const auto ids = golden.at(i).at(1).numbers();
      EXPECT_EQ(t->encode_with_special(golden.at(i).at(0).text()), std::vector<int32_t>(ids.begin(), ids.end())) << i;
    }
  }
}

}  // namespace
}  // namespace tpo
