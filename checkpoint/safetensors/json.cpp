#include "checkpoint/safetensors/json.h"

#include <charconv>

#include "core/error.h"

namespace tpo {
namespace {

constexpr int kMaxDepth = 32;

void append_utf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xc0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xe0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (c & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3f));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (c & 0x3f));
  }
}

bool is_utf8(std::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  for (size_t i = 0; i < s.size();) {
    const unsigned char c = byte(i);
    const size_t more = c < 0x80 ? 0 : c < 0xc2 || c > 0xf4 ? s.size() : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    if (s.size() - i <= more) return false;
    for (size_t k = 1; k <= more; ++k) {
      if ((byte(i + k) & 0xc0) != 0x80) return false;
    }
    // Longer than needed, halves of surrogate pairs, beyond U+10FFFF.
    const unsigned char next = more > 1 ? byte(i + 1) : 0;
    if ((c == 0xe0 && next < 0xa0) || (c == 0xed && next > 0x9f) || (c == 0xf0 && next < 0x90) ||
        (c == 0xf4 && next > 0x8f))
      return false;
    i += 1 + more;
  }
  return true;
}

}  // namespace

void JsonCursor::fail(const std::string& message) const {
  throw DataError(cat(where_, ": ", message, " at byte ", at_));
}

char JsonCursor::peek() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) {
    ++at_;
  }
  return at_ < text_.size() ? text_[at_] : '\0';
}

void JsonCursor::expect(char c) {
  if (peek() != c) fail(cat("'", c, "' is missing"));
  ++at_;
}

void JsonCursor::object(const std::function<void(const std::string& key)>& member) {
  expect('{');
  if (++depth_ > kMaxDepth) fail("values are nested too deeply");
  for (bool first = true; peek() != '}'; first = false) {
    if (!first) expect(',');
    const std::string key = string();
    expect(':');
    member(key);
  }
  ++at_, --depth_;
}

void JsonCursor::list(const std::function<void()>& element) {
  expect('[');
  if (++depth_ > kMaxDepth) fail("values are nested too deeply");
  for (bool first = true; peek() != ']'; first = false) {
    if (!first) expect(',');
    element();
  }
  ++at_, --depth_;
}

char JsonCursor::take() {
  if (at_ >= text_.size()) fail("the text ends inside a string");
  return text_[at_++];
}

uint32_t JsonCursor::hex4() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = take();
    const bool digit = c >= '0' && c <= '9', low = c >= 'a' && c <= 'f', high = c >= 'A' && c <= 'F';
    if (!digit && !low && !high) fail("\\u needs four hexadecimal digits");
    value = value * 16 + static_cast<uint32_t>(digit ? c - '0' : low ? c - 'a' + 10 : c - 'A' + 10);
  }
  return value;
}

void JsonCursor::escape(std::string& out) {
  constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
  const char c = take();
  if (const size_t i = kFrom.find(c); i != std::string_view::npos) {
    out += kTo[i];
    return;
  }
  if (c != 'u') fail("an unknown escape");
  uint32_t unit = hex4();
  if (unit >= 0xd800 && unit < 0xdc00) {
    const bool pair = take() == '\\' && take() == 'u';
    const uint32_t low = pair ? hex4() : 0;
    if (low < 0xdc00 || low > 0xdfff) fail("half of a surrogate pair");
    unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
  } else if (unit >= 0xdc00 && unit < 0xe000) {
    fail("half of a surrogate pair");
  }
  append_utf8(out, unit);
}

std::string JsonCursor::string() {
  expect('"');
  std::string out;
  for (char c = take(); c != '"'; c = take()) {
    if (static_cast<unsigned char>(c) < 0x20) fail("a control character inside a string");
    if (c == '\\') {
      escape(out);
    } else {
      out += c;
    }
  }
  if (!is_utf8(out)) fail("a string is not UTF-8");
  return out;
}

bool JsonCursor::null() {
  if (peek() != 'n' || !text_.substr(at_).starts_with("null")) return false;
  at_ += 4;
  return true;
}

int64_t JsonCursor::integer() {
  peek();
  int64_t value = 0;
  const char* const begin = text_.data() + at_;
  const char* const limit = text_.data() + text_.size();
  const auto [end, error] = std::from_chars(begin, limit, value);
  const bool zeros = end - begin > 1 && *begin == '0';
  const bool more = end < limit && (*end == '.' || *end == 'e' || *end == 'E');
  if (error != std::errc() || value < 0 || *begin == '-' || zeros || more)
    fail("a whole number from 0 to 2^63 - 1 is missing");
  at_ += static_cast<size_t>(end - begin);
  return value;
}

void JsonCursor::skip() {
  const char c = peek();
  if (c == '{') {
    object([this](const std::string&) { skip(); });
  } else if (c == '[') {
    list([this] { skip(); });
  } else if (c == '"') {
    string();
  } else {
    for (const std::string_view word : {"true", "false", "null"}) {
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return;
      }
    }
    double ignored = 0;
    const char* const begin = text_.data() + at_;
    const char digit = c == '-' && at_ + 1 < text_.size() ? text_[at_ + 1] : c;
    const bool number = digit >= '0' && digit <= '9';
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), ignored);
    if (!number || error == std::errc::invalid_argument) fail("a value is missing");
    at_ += static_cast<size_t>(end - begin);
  }
}

void JsonCursor::end() {
  if (peek() != '\0' || at_ != text_.size()) fail("something follows the value");
}

std::string json_quoted(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace tpo
