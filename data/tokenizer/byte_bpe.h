#pragma once
// Byte-level byte-pair encoding (Sennrich 2016; bytes as in GPT-2): text is cut into words, a word into bytes, and the
// pair of neighbours with the lowest rank is merged until no pair has one. Qwen2, GPT-2, cl100k.
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/split_words.h"
#include "data/tokenizer/tokenizer.h"

namespace tpo {

// A vocabulary as its file gives it.
struct ByteBpeModel {
  std::string name;                 // stands in messages
  std::vector<std::string> tokens;  // bytes of each id; empty: an id without a token
  struct Merge {
    int32_t left, right, result, rank;
  };
  std::vector<Merge> merges;  // the lowest rank merges first; among equals the leftmost
  WordRule rule = WordRule::kQwen2;
  bool nfc = false;
  bool space_before = false;  // a piece that does not begin with a space gets one
  bool whole_words = false;   // a word that is a token is that token, whatever the merges say (tiktoken)
  std::vector<AddedToken> added;
  std::string bos, eos;  // empty bos: none
};

// Bytes of a token as vocabularies write it, in an alphabet of one printable character a byte; nothing if it holds
// another character.
std::optional<std::string> bytes_of_token(std::string_view text);

// The readers of the three kinds of files. All throw DataError beginning with `name`: no JSON, a model that is not
// byte-level BPE, an unknown regular expression (which is printed), a setting that would change ids and is not known,
// two tokens with one id, a merge of unknown tokens.
ByteBpeModel read_tokenizer_json(const std::string& bytes, const std::string& name);
ByteBpeModel read_tokenizer_json(const Json& json, const std::string& name);
// What to read instead of a tokenizer.json of another kind, as a sentence for an error; empty: it is byte-level BPE.
std::string other_kind(const Json& json);
// vocab.json with merges.txt.
ByteBpeModel read_vocab_and_merges(const std::string& vocab, const std::string& merges, const std::string& name);
// Lines of a token in base64 and its rank, which is its id. Added tokens and marks are not in such a file.
ByteBpeModel read_tiktoken(const std::string& bytes, const std::string& name);

class ByteBpeTokenizer : public Tokenizer {
 public:
  // Throws DataError for one of the 256 bytes without a token, a pair with two merges, and as Tokenizer::complete.
  explicit ByteBpeTokenizer(ByteBpeModel model);

 protected:
  std::string normalize(std::string_view text) const override;
  void encode_piece(std::string_view text, std::vector<int32_t>& ids) const override;
  std::string decode_run(std::span<const int32_t> ids) const override;
  // The token as a vocabulary would write it: two spaces are no word of one that has them as two U+0120.
  int32_t model_id(std::string_view token) const override;
  bool model_has(int32_t id) const override;

 private:
  struct Target {
    int32_t rank, id;
  };
  void merge_word(std::string_view word, std::vector<int32_t>& ids) const;
  const Target* target(int32_t left, int32_t right) const;

  ByteBpeModel model_;
  std::unordered_map<std::string_view, int32_t> ids_;  // views into model_.tokens
  std::unordered_map<uint64_t, Target> pairs_;         // left * 2^32 + right
  std::array<int32_t, 256> byte_ids_{};
  std::vector<bool> stands_alone_;  // per token: as a word it is encoded as itself, so that merging can be skipped
};

}  // namespace tpo
