// Mutations of tokenizer files, and texts of any bytes: a file is a tokenizer or a DataError; a tokenizer takes every
// text, gives ids in range, and text that is valid comes back from byte-level BPE as it was. No allocation is larger
// than the input explains. Deterministic in the seed.
// usage: tokenizer_fuzz [EXECUTIONS [SEED]]     the default is the short run of ctest; ten million take some minutes
#include <iostream>
#include <memory>

#include "core/error.h"
#include "data/bytes.h"
#include "data/import/json.h"
#include "data/tokenizer/byte_bpe.h"
#include "data/tokenizer/sentencepiece.h"
#include "data/tokenizer/wordpiece.h"
#include "tests/data/small_tokenizer.h"
#include "tests/fuzz.h"

namespace tpo {
namespace {

constexpr size_t kMostBytes = 16 << 20;  // inputs have some ten thousand; SentencePiece doubles its arrays

using TokenizerPtr = std::shared_ptr<Tokenizer>;

std::string fixture(const std::string& name) {
  return read_file(std::string(TPO_SOURCE_DIR) + "/tests/data/fixtures/tokenizers/" + name);
}

// What the four readers make of bytes.
// Files of byte-level vocabularies do not name their end mark, and ranks not even hold it.
TokenizerPtr with_mark(ByteBpeModel model) {
  model.eos = "<|endoftext|>";
  return std::make_shared<ByteBpeTokenizer>(std::move(model));
}
TokenizerPtr from_json(const std::string& bytes) { return with_mark(read_tokenizer_json(bytes, "f")); }
TokenizerPtr from_ranks(const std::string& bytes) {
  ByteBpeModel model = read_tiktoken(bytes, "f");
  model.added.push_back({.text = "<|endoftext|>", .id = 300});
  return with_mark(std::move(model));
}
TokenizerPtr from_vocab(const std::string& bytes) { return std::make_shared<WordPieceTokenizer>(bytes, "f"); }
TokenizerPtr from_model(const std::string& bytes) { return SentencePieceTokenizer::from_bytes(bytes, "f"); }

std::string base64(const std::string& bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t v = 0;
    for (size_t k = 0; k < 3; ++k) v = v << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) out += i + k > bytes.size() ? '=' : kDigits[v >> (18 - 6 * k) & 63];
  }
  return out;
}

std::string ranks() {
  std::string out;
  for (int b = 0; b < 256; ++b) out += cat(base64(std::string(1, static_cast<char>(b))), " ", b, "\n");
  int rank = 256;
  for (const char* token : {"th", "the", " t", "ing", "\xc3\xa9", "  "}) out += cat(base64(token), " ", rank++, "\n");
  return out;
}

const std::vector<std::string> kSplices{"\"",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        ":",
                                        ",",
                                        "-1",
                                        "0",
                                        "2147483648",
                                        "18446744073709551616",
                                        "1e400",
                                        "\\u0000",
                                        "\\ud800",
                                        "\xff\xfe",
                                        "null",
                                        "true",
                                        "\"id\":",
                                        "\"type\":\"WordPiece\"",
                                        " ",
                                        "\n",
                                        "\n\n",
                                        "=",
                                        "[UNK]"};

class Fuzz : testing::Mutator {
 public:
  explicit Fuzz(uint64_t seed) : Mutator(seed, kSplices) {
    const std::string vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncup\n##s\na\n##b\n\xe6\x9d\xb1\n.\n";
    const std::string model = train_sentencepiece(testing::training_lines(), {.vocab_size = 340});
    kinds_ = {{"tokenizer.json", fixture("qwen2.json"), from_json, Back::kAscii},
              {"tokenizer.json", fixture("gpt2.json"), from_json, Back::kAll},
              {"tiktoken", ranks(), from_ranks, Back::kAll},
              {"vocab.txt", vocab, from_vocab, Back::kNever},
              {"sentencepiece", model, from_model, Back::kNever}};
    for (Kind& k : kinds_) k.whole = k.read(k.bytes);
  }

  void text() {
    const Kind& kind = pick(kinds_);
    bool valid = true;
    const std::string text = random_text(valid);
    const std::vector<int32_t> ids = run(*kind.whole, text);
    const bool ascii = std::all_of(text.begin(), text.end(), [](char c) { return c >= 0; });
    const bool comes_back = valid && (kind.back == Back::kAll || (kind.back == Back::kAscii && ascii));
    if (comes_back && kind.whole->decode(ids) != text) {
      std::fprintf(stderr, "%s does not give a text of %zu bytes back\n", kind.name, text.size());
      std::abort();
    }
    ++accepted_;
  }

  void file() {
    const Kind& kind = pick(kinds_);
    const std::string bytes = mutated(kind.bytes);
    bool valid = true;
    const std::string text = random_text(valid);
    const testing::Watch watch(kMostBytes);
    try {
      run(*kind.read(bytes), text);
      ++accepted_;
    } catch (const DataError&) {
      ++refused_;
    }
  }

  int64_t accepted() const { return accepted_; }
  int64_t refused() const { return refused_; }

 private:
  enum class Back { kNever, kAscii, kAll };  // texts that decode to themselves; a normal form changes others than ASCII
  struct Kind {
    const char* name;
    std::string bytes;
    TokenizerPtr (*read)(const std::string&);
    Back back;
    TokenizerPtr whole = nullptr;
  };

  static std::vector<int32_t> run(const Tokenizer& t, const std::string& text) {
    for (const bool special : {false, true}) {
      const std::vector<int32_t> ids = special ? t.encode_with_special(text) : t.encode(text);
      for (const int32_t id : ids) {
        if (id < 0 || id >= t.vocab_size() + static_cast<int32_t>(kTaskTokenText.size())) std::abort();
      }
      decode_with_task_tokens(t, ids);
    }
    return t.encode(text);
  }

  std::string random_text(bool& valid) {
    static const std::vector<std::string> kPieces{"the",
                                                  "The cups",
                                                  " ",
                                                  "  \n",
                                                  "\t",
                                                  "'s",
                                                  "12345",
                                                  "\xc3\xa9",
                                                  "e\xcc\x81",
                                                  "\xe6\x9d\xb1\xe4\xba\xac",
                                                  "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7",
                                                  "<boxes>",
                                                  "<|im_start|>",
                                                  "[SEP]",
                                                  "</s>",
                                                  "\xe2\x96\x81",
                                                  "\r",
                                                  "\xef\xbf\xbd",
                                                  "ing",
                                                  ".",
                                                  "!!",
                                                  std::string(1, '\0'),
                                                  "\xd8\xa7\xd9\x84"};
    static const std::vector<std::string> kBroken{"\xff",     "\xc3",    "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                                  "\xc0\x80", "\xe6\x9d"};
    std::string text;
    for (uint64_t i = 0, n = below(12); i < n; ++i) {
      if (below(10) == 0) {
        text += pick(kBroken), valid = false;
      } else if (below(6) == 0) {
        text += static_cast<char>(below(128));
      } else {
        text += pick(kPieces);
      }
    }
    if (below(200) == 0) text += std::string(below(5000), static_cast<char>('a' + below(26)));
    return text;
  }

  std::vector<Kind> kinds_;
  int64_t accepted_ = 0, refused_ = 0;
};

}  // namespace
}  // namespace tpo

int main(int argc, char** argv) {
  const int64_t executions = argc > 1 ? std::atoll(argv[1]) : 20000;
  tpo::Fuzz fuzz(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  for (int64_t i = 0; i < executions; ++i) i % 20 == 0 ? fuzz.file() : fuzz.text();
  std::cout << executions << " executions, " << fuzz.accepted() << " accepted, " << fuzz.refused() << " refused\n";
  // A run in which no file is refused, or every one, would test little.
  return fuzz.refused() > executions / 60 && fuzz.accepted() > executions * 19 / 20 ? 0 : 1;
}
