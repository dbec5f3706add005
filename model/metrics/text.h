#pragma once
// Exact-match accuracy of short answers and the baseline that reads nothing.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tpo {

// Lower case (ASCII), runs of white space joined to one blank, ends and a final full stop removed.
std::string normalize_answer(std::string_view text);

// Share of pairs equal after normalisation; 0 for no pairs. Throws ShapeError if the counts differ.
double exact_match(std::span<const std::string> predicted, std::span<const std::string> truth);

// The normalised answer seen most often in `train`, ties by alphabet; empty for no answers.
std::string most_frequent_answer(std::span<const std::string> train);

}  // namespace tpo
