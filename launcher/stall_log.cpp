#include "launcher/stall_log.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tpo {
namespace {

constexpr double kAgain_s = 60;
constexpr size_t kLines = 3;  // alarms of one look, each with a line of its own

std::string seconds_text(double s) { return cat(static_cast<double>(std::llround(10 * s)) / 10, " s"); }

}  // namespace

bool StallLog::alarmed() const {
  return std::any_of(told_.begin(), told_.end(), [](const auto& entry) { return !entry.second.finding.note; });
}

bool StallLog::told_in(uint64_t group) const {
  return std::any_of(told_.begin(), told_.end(), [&](const auto& e) { return e.second.finding.group == group; });
}

bool StallLog::is_news(const Finding& f, const Look& l) const {
  if (!l.tells(f)) return false;
  if (l.post_mortem && !verdict_.empty() && f.cause > Cause::kFailed) return false;  // what led to the end was told
  // Twice in a row: the first look may have met the ranks in motion.
  if (!l.post_mortem && seen_.count(f.key()) == 0) return false;
  const auto told = told_.find(f.culprit);
  if (told != told_.end()) {
    const Finding& before = told->second.finding;
    const bool worse = (before.note && !f.note) || (before.note == f.note && f.cause < before.cause);
    return worse || (!f.note && (l.post_mortem || l.now - told->second.last >= kAgain_s));
  }
  const auto longest = longest_.find(f.phase);
  return !f.note || longest == longest_.end() || f.waited_s >= 2 * longest->second;
}

std::vector<std::string> StallLog::look(const std::vector<Finding>& found, const Look& l) {
  std::vector<std::string> lines;
  std::vector<int> more;
  std::set<std::string> keys;
  for (const Finding& f : found) {
    keys.insert(f.key());
    if (const auto it = told_.find(f.culprit); it != told_.end()) it->second.seen = l.now;
    if (!is_news(f, l)) continue;
    Told& t = told_.try_emplace(f.culprit, Told{f, l.now - f.waited_s, l.now, 0, l.now}).first->second;
    t.finding = f, t.last = l.now;
    if (lines.size() >= kLines) {
      more.push_back(f.culprit);
      continue;
    }
    lines.push_back(f.note                ? "note: " + f.text
                    : l.now - t.first > 1 ? cat(f.text, " (told ", std::llround(l.now - t.first), " s ago)")
                                          : f.text);
    if (!f.note) verdict_.push_back(lines.back());
    if (l.post_mortem) break;
  }
  if (!more.empty()) {
    lines.push_back(
        cat("and ", more.size(), " more late: ", more.size() > 1 ? "ranks " : "rank ", text_of_ranks(more)));
    verdict_.push_back(lines.back());
  }
  seen_ = std::move(keys);
  if (!l.ended) over(l, lines);
  return lines;
}

void StallLog::over(const Look& l, std::vector<std::string>& lines) {
  std::erase_if(told_, [&](const auto& entry) {
    const auto& [rank, t] = entry;
    if (l.now - t.seen < l.gone_s) return false;
    const Finding& f = t.finding;
    lines.push_back(cat(f.note ? "note: over after " : "resolved after ", seconds_text(l.now - t.since), ": rank ",
                        rank, f.group != 0 ? cat(", ", text_of_op(f.op, false)) : ""));
    if (f.note) {
      double& longest = longest_[f.phase];
      longest = std::max(longest, l.now - t.since);
    }
    return true;
  });
}

}  // namespace tpo
