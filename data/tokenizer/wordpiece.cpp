#include "data/tokenizer/wordpiece.h"

#include <algorithm>

#include "core/error.h"
#include "data/tokenizer/unicode.h"

namespace tpo {
namespace {

constexpr size_t kMostCharacters = 100;  // a longer word is unknown as a whole

// Calls fn(code point) for each; a byte that is no UTF-8 becomes U+FFFD, which cleaning removes.
template <class F>
void for_each_character(std::string_view text, const F& fn) {
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = code_point(text, i);
    fn(c.value < 0 ? 0xFFFD : c.value);
    i += static_cast<size_t>(c.bytes);
  }
}

// Ideographs, which become words of their own: the CJK blocks, but not kana or hangul.
bool is_ideograph(int32_t c) {
  constexpr int32_t kBlocks[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
                                    {0x2B740, 0x2B81F}, {0x2B820, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
  return std::any_of(std::begin(kBlocks), std::end(kBlocks), [c](const auto& b) { return c >= b[0] && c <= b[1]; });
}

// BERT counts all ASCII symbols, as $ + < =, as punctuation.
bool cuts(int32_t c) {
  const bool ascii = (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  return ascii || is_punctuation(c);
}

}  // namespace

WordPieceTokenizer::WordPieceTokenizer(const std::string& vocab, const std::string& name, std::vector<AddedToken> added,
                                       const WordPieceRules& rules)
    : rules_(rules) {
  rules_.strip_accents = rules.strip_accents.value_or(rules.lower_case);
  for (size_t at = 0; at < vocab.size();) {
    const size_t end = std::min(vocab.find('\n', at), vocab.size());
    std::string token = vocab.substr(at, end - at);
    at = end + 1;
    if (token.ends_with('\r')) token.pop_back();
    const size_t line = tokens_.size() + 1;
    check<DataError>(!token.empty(), name, ": line ", line, " is empty; every line is a token");
    const bool fresh = ids_.emplace(token, static_cast<int32_t>(tokens_.size())).second;
    check<DataError>(fresh, name, ": token '", token, "' of line ", line, " stands already in line ",
                     ids_.at(token) + 1);
    longest_ = std::max(longest_, token.size());
    tokens_.push_back(std::move(token));
  }
  for (const char* mark : {"[UNK]", "[CLS]", "[SEP]"}) {
    check<DataError>(model_id(mark) >= 0, name, ": has no ", mark, "; this is no vocabulary of WordPiece");
  }
  unknown_ = model_id("[UNK]");
  for (const char* mark : {"[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"}) {
    const auto same = [&](const AddedToken& a) { return a.text == mark; };
    if (model_id(mark) >= 0 && std::none_of(added.begin(), added.end(), same))
      added.push_back({.text = mark, .id = model_id(mark)});
  }
  std::string model =
      cat("wordpiece ", unicode_version(), " ", rules_.lower_case, *rules_.strip_accents, rules_.ideographs_apart);
  for (const std::string& token : tokens_) (model += '\n') += token;
  complete({static_cast<int32_t>(tokens_.size()), std::move(added), "[CLS]", "[SEP]", name, model});
}

std::string WordPieceTokenizer::normalize(std::string_view text) const {
  std::string clean;
  const auto cased = [&](std::string_view t) { return rules_.lower_case ? lower_case(t) : std::string(t); };
  for_each_character(cased(text), [&](int32_t c) {
    const bool space = char_class(c) == CharClass::kSpace, apart = rules_.ideographs_apart && is_ideograph(c);
    if (c == 0 || c == 0xFFFD || (is_control(c) && c != '\t' && c != '\n' && c != '\r')) return;
    if (space || apart) clean += ' ';
    if (!space) append_utf8(clean, c);
    if (apart) clean += ' ';
  });
  clean = cased(nfc(clean));
  if (!*rules_.strip_accents) return clean;
  std::string out;
  for_each_character(nfd(clean), [&](int32_t c) {
    if (!is_mark(c)) append_utf8(out, c);
  });
  return out;
}

void WordPieceTokenizer::encode_piece(std::string_view text, std::vector<int32_t>& ids) const {
  size_t begin = 0, at = 0;  // the word so far is text[begin..at)
  const auto finish = [&] {
    if (at > begin) encode_word(text.substr(begin, at - begin), ids);
  };
  while (at < text.size()) {
    const CodePoint c = code_point(text, at);
    const auto size = static_cast<size_t>(c.bytes);
    if (char_class(c.value) == CharClass::kSpace || cuts(c.value)) {
      finish();
      begin = at;
      at += size;
      if (cuts(c.value)) finish();
      begin = at;
    } else {
      at += size;
    }
  }
  finish();
}

void WordPieceTokenizer::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  const auto starts = [&](size_t i) { return (static_cast<unsigned char>(word[i]) & 0xC0) != 0x80; };
  size_t characters = 0;
  for (size_t i = 0; i < word.size() && characters <= kMostCharacters; ++i) characters += starts(i) ? 1 : 0;
  const size_t before = ids.size();
  std::string piece;
  for (size_t at = 0; at < word.size() && characters <= kMostCharacters;) {
    const std::string_view prefix = at > 0 ? "##" : "";
    size_t end = std::min(word.size(), at + longest_ - std::min(longest_, prefix.size()));
    int32_t id = -1;
    for (; end > at && id < 0; --end) {
      if (end < word.size() && !starts(end)) continue;
      piece.assign(prefix).append(word.substr(at, end - at));
      const auto it = ids_.find(piece);
      if (it == ids_.end()) continue;
      id = it->second;
      break;
    }
    if (id < 0) {
      ids.resize(before);
      break;
    }
    ids.push_back(id);
    at = end;
  }
  if (ids.size() == before) ids.push_back(unknown_);
}

std::string WordPieceTokenizer::decode_run(std::span<const int32_t> ids) const {
  std::string text;
  for (int32_t id : ids) {
    const std::string& token = tokens_[static_cast<size_t>(id)];
    const bool continues = token.starts_with("##");
    if (!text.empty() && !continues) text += ' ';
    text += continues ? token.substr(2) : token;
  }
  return text;
}

int32_t WordPieceTokenizer::model_id(std::string_view token) const {
  const auto it = ids_.find(std::string(token));
  return it == ids_.end() ? -1 : it->second;
}

}  // namespace tpo
