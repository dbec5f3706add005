#include "data/tokenizer/split_words.h"

#include <cstdint>

#include "data/tokenizer/unicode.h"

namespace tpo {
namespace {

struct Known {
  WordRule rule;
  std::string_view regex;
};
constexpr Known kKnown[] = {
    {WordRule::kGpt2, R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {WordRule::kGpt2, R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {WordRule::kGpt2, R"('(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s)"},
    {WordRule::kQwen2, R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
                       R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {WordRule::kCl100k, R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
                        R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {WordRule::kTiktoken, R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+)"
                          R"(|\s++$|\s*[\r\n]|\s+(?!\S)|\s)"},
};

struct Char {
  uint32_t offset;
  int32_t value;
  CharClass kind;
};

class Scanner {
 public:
  Scanner(WordRule rule, std::string_view text) : rule_(rule) {
    chars_.reserve(text.size() + 1);
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = code_point(text, at);
      chars_.push_back({static_cast<uint32_t>(at), c.value, char_class(c.value)});
      at += static_cast<size_t>(c.bytes);
    }
    size_ = chars_.size();
    chars_.push_back({static_cast<uint32_t>(text.size()), -1, CharClass::kOther});  // so that [i + 1] may be read
  }

  size_t size() const { return size_; }
  uint32_t offset(size_t i) const { return chars_[i].offset; }

  // End of the word that begins at character i.
  size_t end_of_word(size_t i) const {
    if (const size_t end = contraction(i); end > i) return end;
    return rule_ == WordRule::kGpt2 ? gpt2(i) : cl100k(i);
  }

 private:
  bool is(size_t i, CharClass kind) const { return i < size_ && chars_[i].kind == kind; }
  bool is_line_end(size_t i) const { return i < size_ && (chars_[i].value == '\r' || chars_[i].value == '\n'); }
  size_t run(size_t i, CharClass kind) const {
    while (is(i, kind)) ++i;
    return i;
  }

  // 's 't 'm 'd 're 've 'll; outside GPT-2 in any case, and the long s folds to s.
  size_t contraction(size_t i) const {
    if (chars_[i].value != '\'') return i;
    const auto letter = [&](size_t k) {
      const int32_t c = k < size_ ? chars_[k].value : -1;
      if (rule_ == WordRule::kGpt2) return c;
      return c == 0x17F ? 's' : c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
    };
    const int32_t a = letter(i + 1), b = letter(i + 2);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? i + 3 : i;
  }

  size_t gpt2(size_t i) const {
    const size_t first = i + (chars_[i].value == ' ' ? 1 : 0);
    if (first < size_ && chars_[first].kind != CharClass::kSpace) return run(first, chars_[first].kind);
    return white_space(i);
  }

  size_t cl100k(size_t i) const {
    const CharClass kind = chars_[i].kind;
    if (kind == CharClass::kLetter) return run(i, kind);
    if (kind != CharClass::kNumber && !is_line_end(i) && is(i + 1, CharClass::kLetter)) {
      return run(i + 1, CharClass::kLetter);
    }
    if (kind == CharClass::kNumber) {
      const size_t most = rule_ == WordRule::kQwen2 ? 1 : 3;
      size_t end = i + 1;
      while (end < i + most && is(end, kind)) ++end;
      return end;
    }
    const size_t first = i + (chars_[i].value == ' ' ? 1 : 0);
    if (is(first, CharClass::kOther)) {
      size_t end = run(first, CharClass::kOther);
      while (is_line_end(end)) ++end;
      return end;
    }
    const size_t end = run(i, CharClass::kSpace);
    if (rule_ == WordRule::kTiktoken && end == size_) return end;
    for (size_t k = end; k > i; --k) {
      if (is_line_end(k - 1)) return k;
    }
    return white_space(i);
  }

  // \s+(?!\S)|\s+ : the last character of a run stays with the word behind it.
  size_t white_space(size_t i) const {
    const size_t end = run(i, CharClass::kSpace);
    return end == size_ || end == i + 1 ? end : end - 1;
  }

  WordRule rule_;
  std::vector<Char> chars_;
  size_t size_ = 0;
};

}  // namespace

std::optional<WordRule> rule_of_regex(std::string_view regex) {
  for (const Known& known : kKnown) {
    if (known.regex == regex) return known.rule;
  }
  return std::nullopt;
}

std::vector<std::string_view> split_words(WordRule rule, std::string_view text) {
  const Scanner scanner(rule, text);
  std::vector<std::string_view> words;
  for (size_t i = 0; i < scanner.size();) {
    const size_t end = scanner.end_of_word(i);
    words.push_back(text.substr(scanner.offset(i), scanner.offset(end) - scanner.offset(i)));
    i = end;
  }
  return words;
}

}  // namespace tpo
