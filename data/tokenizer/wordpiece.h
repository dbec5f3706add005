#pragma once
// WordPiece as in BERT (Devlin 2018): text is cleaned, by the rules lower-cased and freed of accents, and cut at white
// space and punctuation; a word is covered from the left by the longest pieces of the vocabulary, "##" before all but
// the first. Equals transformers' BertTokenizer.
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace tpo {

// As in tokenizer_config.json, under transformers' names.
struct WordPieceRules {
  bool lower_case = true;                  // do_lower_case
  std::optional<bool> strip_accents = {};  // nothing: as lower_case
  bool ideographs_apart = true;            // tokenize_chinese_chars: each is a word
};

class WordPieceTokenizer : public Tokenizer {
 public:
  // `vocab`: one token a line, its id is the line's number from 0. Marks are [CLS] and [SEP]. Added tokens: those
  // given, and [UNK], [SEP], [PAD], [CLS], [MASK] of the vocabulary. Throws DataError beginning with `name` for an
  // empty line, a token that stands twice, or [UNK], [CLS], [SEP] missing.
  WordPieceTokenizer(const std::string& vocab, const std::string& name, std::vector<AddedToken> added = {},
                     const WordPieceRules& rules = {});

 protected:
  std::string normalize(std::string_view text) const override;
  void encode_piece(std::string_view text, std::vector<int32_t>& ids) const override;
  std::string decode_run(std::span<const int32_t> ids) const override;
  int32_t model_id(std::string_view token) const override;

 private:
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;

  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
  WordPieceRules rules_;
  size_t longest_ = 0;  // bytes of the longest token, so that the search for pieces is linear in the word
  int32_t unknown_ = -1;
};

}  // namespace tpo
