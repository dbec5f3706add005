#include "parallel/program/verdict.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <set>

#include "core/error.h"

namespace tpo {
namespace {

constexpr double kStillSeconds = 1;  // a stopped rank may be continued at once; step numbers are read a moment apart
constexpr int64_t kStepsToKnow = 3;

std::string seconds_text(double s) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", s);
  return text;
}

// Why a rank waits: for whom, in what.
struct Wait {
  const GroupView* group = nullptr;
  Event op;
  double age_s = 0;
  std::vector<int> blockers;  // world ranks
  bool mismatch = false;      // the blockers are in another operation under this number
  bool arrived = false;       // the blockers have issued it too
};

class Analysis {
 public:
  Analysis(std::span<const RankView> ranks, const VerdictLimits& limits) : limits_(limits) {
    for (const RankView& v : ranks) views_[v.facts.rank] = &v;
    for (const RankView& v : ranks)
      for (const GroupView& g : v.groups)
        if (g.waiting()) waits_[v.facts.rank].push_back(wait_of(v, g));
  }

  std::vector<Finding> run() {
    for (const auto& [rank, waits] : waits_)
      for (const Wait& w : waits)  // what a stopped rank waited for may long be over
        if (view(rank)->facts.life != Life::kStopped) follow(rank, w);
    for (const auto& [rank, view] : views_) lonely(*view);
    std::vector<Finding> found;
    for (auto& [key, f] : findings_) {
      std::sort(f.waiting.begin(), f.waiting.end());
      std::erase_if(f.behind,
                    [&direct = f.waiting](int r) { return std::binary_search(direct.begin(), direct.end(), r); });
      f.note = !is_alarm(f);
      if (f.note && !is_note(f)) continue;
      if (const RankView* v = view(f.culprit)) f.phase = v->facts.phase;
      f.text = describe(f);
      found.push_back(std::move(f));
    }
    // Ranks fail because they disagree.
    const auto disagree = [](const Finding& f) { return f.cause == Cause::kMismatch; };
    if (std::any_of(found.begin(), found.end(), disagree))
      std::erase_if(found, [](const Finding& f) { return f.cause == Cause::kFailed; });
    std::stable_sort(found.begin(), found.end(), [](const Finding& a, const Finding& b) {
      return std::tuple(a.note, a.cause, -a.waited_s) < std::tuple(b.note, b.cause, -b.waited_s);
    });
    return found;
  }

 private:
  const RankView* view(int rank) const {
    const auto it = views_.find(rank);
    return it == views_.end() ? nullptr : it->second;
  }
  static bool still(const RankFacts& f) {
    return f.life == Life::kStopped || f.life == Life::kDead || f.life == Life::kFailed;
  }

  Wait wait_of(const RankView& mine, const GroupView& g) const {
    Wait w{&g, g.wait.e, g.wait.age_s, {}, false, false};
    const auto members = g.members();
    if (!w.op.collective()) return message(members, std::move(w));
    // The operation waited for may be a later one: what holds it up is the oldest, also where the ring lost its name.
    const bool remembered = g.oldest.e.index != 0;
    if (remembered) {
      w.op = g.oldest.e;
    } else if (g.wait.e.seq != g.completed) {
      w.op = Event{};
      w.op.index = g.wait.e.index, w.op.seq = g.completed, w.op.op = g.wait.e.op;
    }
    const uint64_t hash = w.op.hash;
    std::vector<int> late, other, stuck;
    for (const int m : members) {
      if (m == mine.facts.rank) continue;
      const RankView* v = view(m);
      const GroupView* theirs = v ? v->group(g.id) : nullptr;
      if (!theirs || theirs->issued <= g.completed) {
        late.push_back(m);
      } else if (theirs->completed == g.completed && theirs->oldest.e.index != 0 && hash != 0 &&
                 theirs->oldest.e.hash != hash) {
        other.push_back(m);
      } else if (theirs->completed <= g.completed && still(v->facts)) {
        stuck.push_back(m);
      }
    }
    w.mismatch = !other.empty();
    w.arrived = other.empty() && late.empty();
    w.blockers = w.mismatch ? other : late.empty() ? stuck : late;
    return w;
  }

  // A send or recv waits for its partner alone; if the partner is in the other half with another size, they disagree.
  Wait message(const std::vector<int>& members, Wait w) const {
    if (w.op.peer < 0 || static_cast<size_t>(w.op.peer) >= members.size()) return w;
    const int partner = members[static_cast<size_t>(w.op.peer)];
    w.blockers = {partner};
    const RankView* v = view(partner);
    const GroupView* theirs = v ? v->group(w.group->id) : nullptr;
    for (int i = 0; theirs && i < theirs->message_count; ++i) {
      const Event& o = theirs->messages[i].e;
      const bool pair = o.op != w.op.op && o.tag == w.op.tag && o.peer == w.group->rank;
      if (!pair) continue;
      w.arrived = true;
      w.mismatch = o.count != w.op.count || o.dtype != w.op.dtype;
      if (!w.mismatch && !still(v->facts)) w.blockers.clear();
      break;
    }
    return w;
  }

  struct Trail {
    std::set<int> path;  // ranks between the victim and the one looked at
    std::set<int> done;  // looked at in full
  };

  // From a victim along its blockers to the ranks that do not wait.
  void follow(int victim, const Wait& w) {
    Trail trail{{victim}, {}};
    if (w.mismatch) return add_mismatch(w, victim, victim);
    if (w.blockers.empty()) add(Cause::kTransport, victim, w, victim, victim);
    for (const int b : w.blockers) walk(victim, victim, w, b, trail);
  }

  void walk(int victim, int rank, const Wait& w, int blocker, Trail& trail) {
    const RankView* v = view(blocker);
    const auto theirs = waits_.find(blocker);
    std::optional<Cause> cause = v ? standing(*v) : Cause::kUnknown;
    if (!cause && theirs == waits_.end()) cause = busy(v->facts);
    if (const RankView* r = view(rank); !cause && v->facts.step > r->facts.step && !w.arrived) cause = Cause::kLeftOut;
    if (cause) add(*cause, blocker, w, rank, victim);
    if (cause || trail.done.count(blocker) != 0) return;
    if (!trail.path.insert(blocker).second) return cycle(victim, trail.path);
    for (const Wait& next : theirs->second) {
      if (next.mismatch) {
        add_mismatch(next, blocker, victim);
      } else if (next.blockers.empty()) {
        add(Cause::kTransport, blocker, next, blocker, victim);
      }
      for (const int b : next.mismatch ? std::vector<int>{} : next.blockers) walk(victim, blocker, next, b, trail);
    }
    trail.path.erase(blocker);
    trail.done.insert(blocker);
  }

  // Ranks that wait for each other: if one of them is waited for by more than any other, or what it waits in does not
  // follow from what it did, it is late; else the cycle is told by those who wait for its lowest rank.
  void cycle(int victim, const std::set<int>& path) {
    std::map<int, int> wanted;
    int most = 0;
    for (const auto& [rank, waits] : waits_)
      for (const Wait& w : waits)
        for (const int b : w.blockers)
          if (path.count(b) != 0) most = std::max(most, ++wanted[b]);
    std::vector<int> late;
    for (const int r : path)
      if (wanted[r] == most) late.push_back(r);
    const auto group = [&](int r) -> const GroupView& { return *waits_.at(r).front().group; };
    for (const int r : std::vector<int>(late)) {
      const auto worse = [&](int other) { return other == r || fits_worse(group(r), group(other)); };
      if (std::all_of(late.begin(), late.end(), worse)) late = {r};
    }
    for (const auto& [rank, waits] : waits_)
      for (const Wait& w : waits)
        if (std::find(w.blockers.begin(), w.blockers.end(), late[0]) != w.blockers.end())
          add(late.size() == 1 ? Cause::kLeftOut : Cause::kDeadlock, late[0], w, rank, victim);
  }

  static std::optional<Cause> standing(const RankView& v) {
    switch (v.facts.life) {
      case Life::kDead:
        return Cause::kDead;
      case Life::kFailed:
        return Cause::kFailed;
      case Life::kStopped:
        return Cause::kStopped;
      default:
        return std::nullopt;
    }
  }
  static Cause busy(const RankFacts& f) {
    return f.loader_s >= 0 ? Cause::kLoader : f.slow_phase ? Cause::kSlowPhase : Cause::kComputes;
  }

  static bool fits_worse(const GroupView& a, const GroupView& b) {
    const bool same_kind = a.id == b.id && a.oldest.e.hash >> 32 == b.oldest.e.hash >> 32;
    return compare_fits(a.fit, b.fit, same_kind) < 0;
  }

  // Whose operation is wrong, of those that are in operation number w.group->completed: one, or all that may be.
  std::vector<int> odd_ones(int victim, const Wait& w) const {
    if (!w.op.collective()) return {std::min(victim, w.blockers[0]), std::max(victim, w.blockers[0])};
    std::map<uint64_t, std::vector<int>> by_hash;
    std::map<uint64_t, const GroupView*> fits;  // of one member each: they have the same history
    size_t fewest = SIZE_MAX;
    for (const int m : w.group->members()) {
      const RankView* v = view(m);
      const GroupView* g = v ? v->group(w.group->id) : nullptr;
      if (!g || g->completed != w.group->completed || g->oldest.e.index == 0) continue;
      by_hash[g->oldest.e.hash].push_back(m);
      const GroupView*& known = fits[g->oldest.e.hash];
      if (!known || fits_worse(*g, *known)) known = g;
    }
    for (const auto& [hash, members] : by_hash) fewest = std::min(fewest, members.size());
    std::erase_if(by_hash, [&](const auto& entry) { return entry.second.size() > fewest; });
    for (const auto& [hash, members] : by_hash) {
      const bool worst = std::all_of(by_hash.begin(), by_hash.end(), [&, h = hash](const auto& other) {
        return other.first == h || fits_worse(*fits.at(h), *fits.at(other.first));
      });
      if (worst) return members;
    }
    std::vector<int> all;
    for (const auto& [hash, members] : by_hash) all.insert(all.end(), members.begin(), members.end());
    std::sort(all.begin(), all.end());
    return all;
  }

  void add_mismatch(const Wait& w, int waiter, int victim) {
    const std::vector<int> odd = odd_ones(waiter, w);
    add(Cause::kMismatch, odd.front(), w, waiter, victim).suspects = odd;
  }

  Finding& add(Cause cause, int culprit, const Wait& w, int waiter, int victim) {
    // All ranks of a mismatch or a silent network are one finding, whoever looks.
    const bool shared = cause == Cause::kMismatch || cause == Cause::kTransport;
    const std::string key = cat(static_cast<int>(cause), " ", shared ? 0 : culprit, " ", w.group->id, " ", w.op.seq);
    Finding& f = findings_.try_emplace(key).first->second;
    if (f.culprit < 0) f.cause = cause, f.culprit = culprit, f.group = w.group->id, f.op = w.op;
    if (f.op.hash == 0 || (cause == Cause::kMismatch && waiter != f.culprit)) f.op = w.op;  // hash 0: without its name
    arrived_[key] = w.arrived;
    const auto note = [](std::vector<int>& list, int rank) {
      if (std::find(list.begin(), list.end(), rank) == list.end()) list.push_back(rank);
    };
    if (waiter != culprit || cause == Cause::kTransport) note(f.waiting, waiter);
    if (victim != waiter && victim != culprit) note(f.behind, victim);
    f.waited_s = std::max(f.waited_s, w.age_s);
    return f;
  }

  // Dead, failed or stopped without anybody waiting for it.
  void lonely(const RankView& v) {
    const auto cause = standing(v);
    const bool known = std::any_of(findings_.begin(), findings_.end(), [&](const auto& f) {
      return f.second.culprit == v.facts.rank || (f.second.cause == Cause::kMismatch && cause == Cause::kFailed);
    });
    if (!cause || known) return;
    Finding& f = findings_[cat("lonely ", v.facts.rank)];
    f.cause = *cause, f.culprit = v.facts.rank;
    // They will wait for it: the first operation that others have issued and it has not.
    for (const GroupView& g : v.groups)
      for (const int m : g.members()) {
        const RankView* other = view(m);
        const GroupView* theirs = other ? other->group(g.id) : nullptr;
        if (!theirs || theirs->oldest.e.index == 0 || theirs->oldest.e.seq != g.issued) continue;
        if (f.issuers.empty()) f.op = theirs->oldest.e, f.group_name = g.name;
        if (f.group_name == g.name) f.issuers.push_back(m);
      }
  }

  bool is_alarm(const Finding& f) const {
    const RankView* v = view(f.culprit);
    const double stall = limits_.stall_seconds, slow = std::max(stall, limits_.slow_phase_seconds);
    if (limits_.post_mortem) return f.cause <= Cause::kFailed || f.group != 0;
    switch (f.cause) {
      case Cause::kMismatch:  // more ranks may come and show who is right
        return f.suspects.size() == 1 || f.waited_s >= kStillSeconds || still(v->facts);
      case Cause::kFailed:
      case Cause::kDead:
        return true;
      case Cause::kStopped:
        return f.group != 0 ? std::min(f.waited_s, v->facts.life_s) >= kStillSeconds : v->facts.life_s >= stall;
      case Cause::kLeftOut:
        return f.waited_s >= kStillSeconds;
      case Cause::kLoader:
      case Cause::kDeadlock:
        return f.waited_s >= stall;
      case Cause::kComputes: {
        if (v->facts.steps_here < kStepsToKnow) return f.waited_s >= slow;
        const double healthy = limits_.longest_healthy_wait ? limits_.longest_healthy_wait(f.group) : 0;
        return f.waited_s >= std::max({stall, 3 * healthy, v->facts.longest_step_s / 2});
      }
      case Cause::kSlowPhase:
      case Cause::kTransport:
      case Cause::kUnknown:
        break;
    }
    return f.waited_s >= slow;
  }

  // Whether the alarm would come after slow_phase_seconds, and this is a stall in all else.
  bool is_note(const Finding& f) const {
    const RankView* v = view(f.culprit);
    const bool early = f.cause == Cause::kComputes && v->facts.steps_here < kStepsToKnow;
    const bool slow = f.cause == Cause::kSlowPhase || f.cause == Cause::kTransport || f.cause == Cause::kUnknown;
    return (early || slow) && !limits_.post_mortem && f.waited_s >= limits_.stall_seconds;
  }

  std::string who(int rank) const {
    const RankView* v = view(rank);
    if (!v) return cat("rank ", rank);
    std::string s = cat("rank ", rank, " (node ", v->facts.host);
    if (v->facts.step >= 0) s += cat(", step ", v->facts.step);
    if (v->facts.phase[0] != 0) s += cat(", ", v->facts.phase);
    return s + ")";
  }

  std::string doing(const Finding& f) const {
    const RankFacts& v = view(f.culprit)->facts;
    switch (f.cause) {
      case Cause::kDead:
        return v.signal != 0 ? cat("it died of signal ", v.signal, " (", strsignal(v.signal), ")")
                             : cat("it is dead: process ", v.pid, " is gone without a word (killed?)");
      case Cause::kFailed:
        return cat("it failed: ", v.error);
      case Cause::kStopped:
        return cat("it is stopped (SIGSTOP or a debugger); kill -CONT ", v.pid, " lets it go on");
      case Cause::kLoader:
        return cat(
            "it is in the data loader since ", seconds_text(v.loader_s), ", waiting for ",
            v.reading.e.index != 0 ? cat("dataset ", v.reading.e.text, ", record ", v.reading.e.count) : "a batch");
      case Cause::kLeftOut:
      case Cause::kDeadlock: {
        const Wait& w = waits_.at(f.culprit).front();
        return cat(f.cause == Cause::kLeftOut ? "it went past it and" : "it", " waits in ", text_of_op(w.op, false),
                   " of group ", w.group->name, f.cause == Cause::kDeadlock ? ": they wait for each other" : "");
      }
      default:
        return cat(f.cause == Cause::kComputes ? "it computes" : "it is", " in ", v.phase, " since ",
                   seconds_text(v.phase_s));
    }
  }

  std::string describe(const Finding& f) const {
    if (!f.issuers.empty())
      return cat(who(f.culprit), " has not entered ", text_of_op(f.op, false), " of group ", f.group_name,
                 ", which rank", f.issuers.size() == 1 ? " " : "s ", text_of_ranks(f.issuers),
                 f.issuers.size() == 1 ? " has" : " have", " issued; ", doing(f));
    if (f.group == 0) return cat(who(f.culprit), ": ", doing(f), "; nobody waits for it");
    const GroupView* g = group_of(f);
    const std::string op = cat(text_of_op(f.op, false), " of group ", g->name);
    std::string waiting = cat(f.waiting.size() == 1 ? "rank " : "ranks ", text_of_ranks(f.waiting),
                              f.waiting.size() == 1 ? " waits" : " wait", " since ", seconds_text(f.waited_s));
    if (!f.behind.empty()) waiting += cat(" (and ", text_of_ranks(f.behind), " behind)");
    if (f.cause == Cause::kMismatch) return disagreement(f, *g);
    if (f.cause == Cause::kTransport) return cat("all ranks have entered ", op, ", but it does not move: ", waiting);
    if (f.cause == Cause::kUnknown)
      return cat("no news from rank ", f.culprit, ": it has not entered ", op, ", where ", waiting);
    const std::string key = cat(static_cast<int>(f.cause), " ", f.culprit, " ", f.group, " ", f.op.seq);
    const bool inside = arrived_.count(key) != 0 && arrived_.at(key);
    return cat(who(f.culprit), inside ? " stands still in " : " has not entered ", op, ", where ", waiting, "; ",
               doing(f));
  }

  // What a rank does in the group and number of the finding.
  Event op_of(int rank, const Finding& f) const {
    const RankView* v = view(rank);
    const GroupView* g = v ? v->group(f.group) : nullptr;
    if (!g) return f.op;
    for (int i = 0; !f.op.collective() && i < g->message_count; ++i)
      if (g->messages[i].e.tag == f.op.tag) return g->messages[i].e;
    return f.op.collective() ? g->oldest.e : g->wait.e;
  }

  std::string disagreement(const Finding& f, const GroupView& g) const {
    std::vector<int> all = f.suspects;  // then all others that are in this number, or wait for such a message
    for (const int m : f.op.collective() ? g.members() : f.waiting) {
      const RankView* v = view(m);
      const GroupView* theirs = v ? v->group(f.group) : nullptr;
      const bool in = theirs && (!f.op.collective() || (theirs->completed == f.op.seq && theirs->oldest.e.index != 0));
      if (in && std::find(all.begin(), all.end(), m) == all.end()) all.push_back(m);
    }
    std::vector<std::pair<uint64_t, std::vector<int>>> sides;  // by what they are in
    for (const int r : all) {
      const uint64_t hash = op_of(r, f).hash;
      const auto side = std::find_if(sides.begin(), sides.end(), [&](const auto& s) { return s.first == hash; });
      if (side == sides.end())
        sides.push_back({hash, {r}});
      else
        side->second.push_back(r);
    }
    const bool decided = op_of(f.suspects.back(), f).hash == sides[0].first;
    std::string s = cat("ranks disagree in group ", g.name, decided ? ": " : ", any of which may be wrong: ");
    for (size_t i = 0; i < sides.size(); ++i) {
      const auto& [hash, ranks] = sides[i];
      const std::string one = i == 0 || !decided ? who(ranks[0]) : cat("rank ", ranks[0]);
      s += cat(i == 0 ? "" : " but ", ranks.size() > 1 ? cat("ranks ", text_of_ranks(ranks), " are") : one + " is",
               " in ", text_of_op(op_of(ranks[0], f), true));
    }
    return s;
  }

  const GroupView* group_of(const Finding& f) const {
    for (const auto& [rank, v] : views_)
      if (const GroupView* g = v->group(f.group)) return g;
    return nullptr;
  }

  const VerdictLimits& limits_;
  std::map<int, const RankView*> views_;
  std::map<int, std::vector<Wait>> waits_;
  std::map<std::string, Finding> findings_;
  std::map<std::string, bool> arrived_;  // by key: the culprit had entered
};

}  // namespace

std::string Finding::key() const { return cat(static_cast<int>(cause), " ", culprit, " ", group, " ", op.seq); }

std::string text_of_ranks(std::vector<int> ranks) {
  std::sort(ranks.begin(), ranks.end());
  std::string out;
  for (size_t i = 0; i < ranks.size();) {
    size_t j = i;
    while (j + 1 < ranks.size() && ranks[j + 1] == ranks[j] + 1) ++j;
    out += cat(out.empty() ? "" : ", ", ranks[i]);
    if (j > i) out += cat(j > i + 1 ? "-" : ", ", ranks[j]);
    i = j + 1;
  }
  return out;
}

std::vector<Finding> diagnose(std::span<const RankView> ranks, const VerdictLimits& limits) {
  return Analysis(ranks, limits).run();
}

}  // namespace tpo
