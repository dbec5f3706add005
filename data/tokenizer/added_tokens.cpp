#include "data/tokenizer/added_tokens.h"

#include <algorithm>

#include "core/error.h"
#include "data/import/json.h"
#include "data/tokenizer/unicode.h"

namespace tpo {
namespace {

// Start of the last character before `at`; `at` itself at the beginning of the text.
size_t character_before(std::string_view text, size_t at) {
  size_t i = at;
  while (i > 0 && at - i < 4) {
    --i;
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) break;
  }
  return i;
}

bool touches_word(std::string_view text, size_t begin, size_t end) {
  const bool before = begin > 0 && is_word(code_point(text, character_before(text, begin)).value);
  return before || (end < text.size() && is_word(code_point(text, end).value));
}

// Models have rows up to the greatest id, so that one beyond any vocabulary is a mistake.
int32_t checked_id(const Json& json, int64_t id) {
  constexpr int64_t kMostIds = 1 << 24;
  if (id < 0 || id >= kMostIds) json.fail(cat("id ", id, " is out of range; legal: 0 to ", kMostIds - 1));
  return static_cast<int32_t>(id);
}

AddedToken read_entry(const Json& json, int64_t id) {
  const auto flag = [&](const char* key, bool otherwise) {
    const auto found = json.find(key);
    return found ? found->boolean() : otherwise;
  };
  AddedToken t;
  t.text = json.at("content").text();
  t.id = checked_id(json, id);
  t.special = flag("special", false);
  t.lstrip = flag("lstrip", false);
  t.rstrip = flag("rstrip", false);
  t.single_word = flag("single_word", false);
  t.normalized = flag("normalized", !t.special);
  return t;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const std::string& name) : tokens_(std::move(tokens)) {
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.text.size() != b.text.size() ? a.text.size() > b.text.size() : a.text < b.text;
  });
  const auto same = [](const AddedToken& a, const AddedToken& b) { return a.text == b.text && a.id == b.id; };
  tokens_.erase(std::unique(tokens_.begin(), tokens_.end(), same), tokens_.end());
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& t = tokens_[i];
    check<DataError>(!t.text.empty() && t.id >= 0, name, ": added token ", t.id, " '", t.text,
                     "' has no text or a negative id");
    check<DataError>(i == 0 || tokens_[i - 1].text != t.text, name, ": added token '", t.text, "' has two ids, ",
                     tokens_[i > 0 ? i - 1 : 0].id, " and ", t.id);
    const auto [other, fresh] = by_id_.emplace(t.id, static_cast<int32_t>(i));
    check<DataError>(fresh, name, ": added tokens '", tokens_[static_cast<size_t>(other->second)].text, "' and '",
                     t.text, "' both have id ", t.id);
    by_first_byte_[static_cast<unsigned char>(t.text[0])].push_back(static_cast<int32_t>(i));
  }
}

const AddedToken* AddedTokens::match(std::string_view text, size_t at, bool normalized, bool with_special) const {
  for (int32_t i : by_first_byte_[static_cast<unsigned char>(text[at])]) {
    const AddedToken& t = tokens_[static_cast<size_t>(i)];
    if (t.normalized == normalized && (with_special || !t.special) && text.substr(at).starts_with(t.text)) return &t;
  }
  return nullptr;
}

std::vector<AddedTokens::Piece> AddedTokens::split(std::string_view text, bool normalized, bool with_special) const {
  std::vector<Piece> pieces;
  size_t done = 0;  // all before it is in pieces
  for (size_t at = 0; at < text.size();) {
    const AddedToken* t = match(text, at, normalized, with_special);
    size_t begin = at, end = at + (t != nullptr ? t->text.size() : 1);
    at = end;
    if (t == nullptr || begin < done || (t->single_word && touches_word(text, begin, end))) continue;
    while (t->lstrip && begin > done) {
      const size_t before = character_before(text, begin);
      if (char_class(code_point(text, before).value) != CharClass::kSpace) break;
      begin = std::max(before, done);
    }
    while (t->rstrip && end < text.size() && char_class(code_point(text, end).value) == CharClass::kSpace) {
      end += static_cast<size_t>(code_point(text, end).bytes);
    }
    if (begin > done) pieces.push_back({text.substr(done, begin - done), -1});
    pieces.push_back({text.substr(begin, end - begin), t->id});
    done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), -1});
  return pieces;
}

const AddedToken* AddedTokens::find(std::string_view text) const {
  const auto it = std::find_if(tokens_.begin(), tokens_.end(), [&](const AddedToken& t) { return t.text == text; });
  return it == tokens_.end() ? nullptr : &*it;
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &tokens_[static_cast<size_t>(it->second)];
}

std::string describe(const std::vector<AddedToken>& tokens) {
  std::string text;
  for (const AddedToken& t : tokens)
    text += cat(" ", t.id, " ", t.special, t.lstrip, t.rstrip, t.single_word, t.normalized, t.text.size(), ":", t.text);
  return text;
}

std::vector<AddedToken> read_added_tokens(const Json& json) {
  std::vector<AddedToken> tokens;
  if (json.is(Json::Kind::kList)) {
    for (size_t i = 0; i < json.size(); ++i) tokens.push_back(read_entry(json.at(i), json.at(i).at("id").integer()));
    return tokens;
  }
  for (const std::string& key : json.keys()) {
    const Json entry = json.at(key);
    if (entry.is(Json::Kind::kNumber)) {
      tokens.push_back({.text = key, .id = checked_id(entry, entry.integer()), .special = false, .normalized = true});
    } else {
      const bool digits = !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos;
      if (!digits) entry.fail("must be named by an id");
      tokens.push_back(read_entry(entry, std::stoll(key)));
    }
  }
  return tokens;
}

}  // namespace tpo
