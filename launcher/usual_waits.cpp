#include "launcher/usual_waits.h"

#include <algorithm>

namespace tpo {

void UsualWaits::look(const std::vector<RankView>& views, const std::function<bool(uint64_t group)>& told) {
  const bool slow = std::any_of(views.begin(), views.end(), [](const RankView& v) { return v.facts.slow_phase; });
  for (const RankView& v : views) {
    auto& before = waits_[v.facts.rank];
    std::map<uint64_t, Seen> now;
    for (const GroupView& g : v.groups) {
      if (!g.waiting()) continue;
      const auto it = before.find(g.id);
      const bool same = it != before.end() && it->second.event == g.wait.e.index;
      now[g.id] = {g.wait.e.index, g.wait.age_s, slow || (same && it->second.slow)};
      if (same) before.erase(it);
    }
    for (const auto& [group, wait] : before)  // those that are over
      if (!wait.slow && !slow && !told(group)) longest_[group] = std::max(longest_[group], wait.age_s);
    before = std::move(now);
  }
}

double UsualWaits::longest(uint64_t group) const {
  const auto it = longest_.find(group);
  return it == longest_.end() ? 0 : it->second;
}

}  // namespace tpo
