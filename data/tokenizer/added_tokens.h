#pragma once
// Tokens that stand beside a vocabulary and are found in the text before it is tokenized: marks such as <|im_end|> and
// the task tokens. Rules of the public tokenizers: the leftmost match wins, then the longest.
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tpo {

class Json;

struct AddedToken {
  std::string text;
  int32_t id = -1;
  bool special = true;       // a mark, not a word: found by encode_with_special() only
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool single_word = false;  // only where no word character touches it
  bool normalized = false;   // looked for after normalisation
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // Throws DataError, beginning with `name`, for an empty text, a negative id, two tokens with the same id, or one text
  // with two ids. The same entry twice is one.
  AddedTokens(std::vector<AddedToken> tokens, const std::string& name);

  struct Piece {
    std::string_view text;
    int32_t id;  // -1: plain text
  };
  // The text in pieces, without empty ones; only tokens with this `normalized` are looked for, special ones on request.
  std::vector<Piece> split(std::string_view text, bool normalized, bool with_special) const;

  const std::vector<AddedToken>& all() const { return tokens_; }
  const AddedToken* find(std::string_view text) const;  // null: none
  const AddedToken* find(int32_t id) const;

 private:
  const AddedToken* match(std::string_view text, size_t at, bool normalized, bool with_special) const;
  std::vector<AddedToken> tokens_;                       // longest first
  std::array<std::vector<int32_t>, 256> by_first_byte_;  // indices into tokens_, longest first
  std::map<int32_t, int32_t> by_id_;
};

// All that a fingerprint needs to know of them.
std::string describe(const std::vector<AddedToken>& tokens);

// Entries of "added_tokens" in tokenizer.json (a list with ids) and "added_tokens_decoder" in tokenizer_config.json (an
// object from id to entry), or of added_tokens.json (text to id; all as words, since it does not say which are marks).
// Throws DataError for other shapes, and for an id that is negative or above 2^24 - 1.
std::vector<AddedToken> read_added_tokens(const Json& json);

}  // namespace tpo
