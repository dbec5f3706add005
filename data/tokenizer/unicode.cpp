#include "data/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

namespace tpo {
namespace {

// ASCII does not decompose, and below U+0300, whose first byte is 0xCC, nothing composes.
bool is_normal(std::string_view text, bool compose) {
  const unsigned char end = compose ? 0xCC : 0x80;
  return std::all_of(text.begin(), text.end(), [end](char c) { return static_cast<unsigned char>(c) < end; });
}

void normalize_run(const std::vector<int32_t>& run, bool compose, std::string& out) {
  if (run.empty()) return;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : 0));
  const auto split = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
  std::vector<int32_t> points;
  points.reserve(run.size() + 16);
  for (int32_t c : run) {
    int32_t parts[8];  // the longest canonical decomposition has four
    const auto n = utf8proc_decompose_char(c, parts, 8, split, nullptr);
    points.insert(points.end(), parts, parts + std::clamp<utf8proc_ssize_t>(n, 0, 8));
  }
  // Marks into canonical order: within each run of combining classes over 0, by class, keeping the order of equals.
  const auto combining = [](int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (size_t i = 0; i < points.size();) {
    size_t end = i + 1;
    if (combining(points[i]) != 0) {
      while (end < points.size() && combining(points[end]) != 0) ++end;
      std::stable_sort(points.begin() + static_cast<std::ptrdiff_t>(i),
                       points.begin() + static_cast<std::ptrdiff_t>(end),
                       [&](int32_t a, int32_t b) { return combining(a) < combining(b); });
    }
    i = end;
  }
  const auto length = static_cast<utf8proc_ssize_t>(points.size());
  points.resize(
      static_cast<size_t>(std::max<utf8proc_ssize_t>(utf8proc_normalize_utf32(points.data(), length, options), 0)));
  for (int32_t c : points) append_utf8(out, c);
}

std::string normalize(std::string_view text, bool compose) {
  if (is_normal(text, compose)) return std::string(text);
  std::string out;
  out.reserve(text.size());
  std::vector<int32_t> run;
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = code_point(text, i);
    if (c.value < 0) {
      normalize_run(run, compose, out);
      run.clear();
      out += text[i];
    } else {
      run.push_back(c.value);
    }
    i += static_cast<size_t>(c.bytes);
  }
  normalize_run(run, compose, out);
  return out;
}

}  // namespace

std::string unicode_version() { return utf8proc_unicode_version(); }

CodePoint code_point(std::string_view text, size_t at) {
  const auto first = static_cast<unsigned char>(text[at]);
  if (first < 0x80) return {first, 1};
  int32_t value = -1;
  const auto left = static_cast<utf8proc_ssize_t>(std::min<size_t>(text.size() - at, 4));
  const auto bytes = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at), left, &value);
  return bytes > 0 ? CodePoint{value, static_cast<int32_t>(bytes)} : CodePoint{-1, 1};
}

void append_utf8(std::string& text, int32_t c) {
  utf8proc_uint8_t bytes[4];
  const auto n = utf8proc_encode_char(c, bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(n));
}

CharClass char_class(int32_t c) {
  if (c < 0) return CharClass::kOther;
  const int k = utf8proc_category(c);
  if (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) return CharClass::kLetter;
  if (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) return CharClass::kNumber;
  const bool space = (c >= 9 && c <= 13) || c == 0x85 || (k >= UTF8PROC_CATEGORY_ZS && k <= UTF8PROC_CATEGORY_ZP);
  return space ? CharClass::kSpace : CharClass::kOther;
}

bool is_mark(int32_t c) { return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_MN; }

bool is_punctuation(int32_t c) {
  const int k = c < 0 ? 0 : utf8proc_category(c);
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool is_control(int32_t c) {
  const int k = c < 0 ? 0 : utf8proc_category(c);
  return k == UTF8PROC_CATEGORY_CN || (k >= UTF8PROC_CATEGORY_CC && k <= UTF8PROC_CATEGORY_CO);
}

bool is_word(int32_t c) {
  if (c < 0) return false;
  const int k = utf8proc_category(c);
  // Other_Alphabetic beyond the marks: letters in circles and squares.
  const bool enclosed = (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
                        (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) || k == UTF8PROC_CATEGORY_PC || enclosed ||
         c == 0x200C || c == 0x200D;
}

std::string nfc(std::string_view text) { return normalize(text, true); }
std::string nfd(std::string_view text) { return normalize(text, false); }

std::string lower_case(std::string_view text) {
  constexpr int32_t kDottedI = 0x130;
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = code_point(text, i);
    if (c.value < 0) {
      out += text[i];
    } else if (c.value == kDottedI) {
      out += "i\xcc\x87";
    } else {
      append_utf8(out, utf8proc_tolower(c.value));
    }
    i += static_cast<size_t>(c.bytes);
  }
  return out;
}

}  // namespace tpo
