#pragma once
// Lists of names that do not fit: what patterns allow, and one sentence about the rest.
#include <string>
#include <string_view>
#include <vector>

namespace tpo {

struct NameNote {
  std::string name, text;  // text stands for the name in messages, or is a remark on it
};

// Appends to `message` "; <how many> <kind>: ..." about what no pattern (* any run, ? one character) allows, the first
// 20 of them; returns the names of what is allowed.
std::vector<std::string> sift(const std::vector<NameNote>& found, const std::vector<std::string>& patterns,
                              const std::string& kind, std::string& message);

}  // namespace tpo
