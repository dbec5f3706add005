#include "checkpoint/weights/name_map.h"

#include <algorithm>
#include <stdexcept>

#include "core/error.h"

namespace tpo {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// "a{b,c}d" as {"abd", "acd"}; several braces multiply, the last one fastest.
std::vector<std::string> alternatives(const std::string& pattern) {
  const size_t open = pattern.find('{');
  if (open == std::string::npos) return {pattern};
  const size_t close = pattern.find('}', open);
  if (close == std::string::npos) throw std::logic_error("name pattern without }: " + pattern);
  const std::vector<std::string> tails = alternatives(pattern.substr(close + 1));
  std::vector<std::string> out;
  for (size_t at = open + 1; at <= close;) {
    const size_t end = std::min(pattern.find(',', at), close);
    for (const std::string& tail : tails) out.push_back(pattern.substr(0, open) + pattern.substr(at, end - at) + tail);
    at = end + 1;
  }
  return out;
}

}  // namespace

void append_rows(std::vector<MapRow>& rows, const std::string& theirs_prefix, const std::string& ours_prefix,
                 const std::vector<MapRow>& table) {
  for (const MapRow& row : table) {
    const std::vector<std::string> theirs = alternatives(row.theirs), ours = alternatives(row.ours);
    // One name of ours may say how long several of theirs are, and nothing stands beside what is not used.
    const bool pair = ours.size() == theirs.size() || ours.size() == 1;
    const bool numbers = row.ours.empty() || std::count(row.theirs.begin(), row.theirs.end(), '#') ==
                                                 std::count(row.ours.begin(), row.ours.end(), '#');
    if (!pair || !numbers) throw std::logic_error("the two names of a row do not fit: " + row.theirs + ", " + row.ours);
    for (size_t i = 0; i < theirs.size(); ++i) {
      MapRow one = row;
      one.theirs = theirs_prefix + theirs[i];
      if (!row.ours.empty()) one.ours = ours_prefix + ours[ours.size() == 1 ? 0 : i];
      rows.push_back(std::move(one));
    }
  }
}

std::optional<std::vector<std::string>> match_name(std::string_view pattern, std::string_view name) {
  std::vector<std::string> numbers;
  size_t n = 0;
  for (const char c : pattern) {
    if (c != '#') {
      if (n >= name.size() || name[n] != c) return std::nullopt;
      ++n;
      continue;
    }
    const size_t begin = n;
    while (n < name.size() && is_digit(name[n])) ++n;
    // "01" is not how these names are written; taken as 1, it would be a second name of one tensor.
    if (n == begin || (n - begin > 1 && name[begin] == '0')) return std::nullopt;
    numbers.emplace_back(name.substr(begin, n - begin));
  }
  if (n != name.size()) return std::nullopt;
  return numbers;
}

std::string fill_name(std::string_view pattern, const std::vector<std::string>& numbers) {
  std::string out;
  size_t next = 0;
  for (const char c : pattern) {
    if (c == '#') {
      out += numbers.at(next++);
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace tpo
