#include "checkpoint/sift.h"

#include <algorithm>

#include "core/error.h"
#include "core/param.h"

namespace tpo {
namespace {

constexpr size_t kListed = 20;  // differences of one kind that a message lists

}  // namespace

std::vector<std::string> sift(const std::vector<NameNote>& found, const std::vector<std::string>& patterns,
                              const std::string& kind, std::string& message) {
  std::vector<std::string> skipped;
  size_t refused = 0;
  std::string list;
  for (const NameNote& d : found) {
    if (std::any_of(patterns.begin(), patterns.end(), [&](const std::string& p) { return glob_match(p, d.name); })) {
      skipped.push_back(d.name);
    } else if (++refused <= kListed) {
      list += (refused > 1 ? ", " : " ") + (d.text.empty() ? d.name : d.text);
    }
  }
  if (refused > kListed) list += cat(" and ", refused - kListed, " more");
  if (refused > 0) message += cat("; ", refused, " ", kind, ":", list);
  return skipped;
}

}  // namespace tpo
