#pragma once
// The regular expressions that cut text into words before byte-level BPE, as hand-written scanners: one pass, no
// backtracking over more than one run of white space.
#include <optional>
#include <string_view>
#include <vector>

namespace tpo {

enum class WordRule {
  kGpt2,      // 's|'t|.. | ?L+ | ?N+ | ?other+ | white space, less the last before a word
  kQwen2,     // contractions in any case; one foreign character may begin a word; single digits; line ends apart
  kCl100k,    // as kQwen2 with up to three digits: the form of tokenizer.json files
  kTiktoken,  // as kCl100k, but white space that ends the text is one word: the form inside tiktoken
};

// The rule whose regular expression this is, in any of its public spellings.
std::optional<WordRule> rule_of_regex(std::string_view regex);

// Consecutive views that make up the text. A byte that is not UTF-8 counts as a character that is no letter, number or
// white space. Linear.
std::vector<std::string_view> split_words(WordRule rule, std::string_view text);

}  // namespace tpo
