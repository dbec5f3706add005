#pragma once
// What tokenizers ask of Unicode: code points, categories, normal forms, lower case. utf8proc's tables
// answer (Unicode 15.0 in utf8proc 2.8); characters that are younger than the tables are "other", as they were when
// today's vocabularies were made.
#include <cstdint>
#include <string>
#include <string_view>

namespace tpo {

std::string unicode_version();  // of the tables, as "15.0.0"

struct CodePoint {
  int32_t value;  // -1: a byte that is no part of valid UTF-8
  int32_t bytes;  // 1..4
};
// The code point that begins at text[at]; at < text.size().
CodePoint code_point(std::string_view text, size_t at);
void append_utf8(std::string& text, int32_t code_point);

// Classes that split text: L*, N*, White_Space, and everything else (-1 too).
enum class CharClass : uint8_t { kLetter, kNumber, kSpace, kOther };
CharClass char_class(int32_t code_point);

bool is_mark(int32_t code_point);         // Mn: what stays of an accent once a letter is decomposed
bool is_punctuation(int32_t code_point);  // P*
bool is_control(int32_t code_point);      // C*: controls, formats, surrogates, private and unassigned ones
bool is_word(int32_t code_point);         // \w of regular expressions: Alphabetic, M*, Nd, Pc, joiners

// Canonical composition and decomposition (Unicode annex 15). Bytes that are not UTF-8 stay where they are.
std::string nfc(std::string_view text);
std::string nfd(std::string_view text);

// Lower case, character by character: a capital sigma becomes the common small one also at the end of a word, and a
// dotted capital I keeps its dot as a mark.
std::string lower_case(std::string_view text);

}  // namespace tpo
