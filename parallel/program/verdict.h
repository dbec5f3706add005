#pragma once
// Verdict: from what the rings of a job say to who is late, in what, and why. A pure function; the supervisor
// (launcher/supervisor.h) feeds it and prints.
//
// A rank waits if one of its threads stands in Work::wait. What it waits for is the oldest collective of that group
// that is not over on it (operations of a group run one after the other); it waits for the members that have not issued
// it, or that did but stand still. A late rank that itself waits in another group is a victim too: the chain is
// followed to a rank that does not wait, or whose place in a cycle shows that it left something out.
//
// Ranks disagree where the operations of one number differ: the fewest are wrong, and of equally many those whose
// operation fits worse what they did until then (habit.h); if that tells nothing, all of them are suspects.
//
// When it is an alarm, by what the late rank does (longest wait of a victim, seconds):
//   dead, failed, operations that disagree   at once
//   stopped, or went past the operation      1 (a stopped rank for which nobody waits: stall_seconds)
//   waits for its data loader                stall_seconds
//   ranks wait for each other                stall_seconds
//   evaluation, checkpoint, start-up         slow_phase_seconds
//   computes                                 max(stall_seconds, 3 x the longest wait in that group that ended by
//   itself,
//                                            half its longest step); slow_phase_seconds until it has done 3 steps
//   all have arrived and stand still         slow_phase_seconds (a slow network)
// Where that is slow_phase_seconds, a wait of stall_seconds is a note already: something to know, not to act upon.
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "parallel/program/rank_view.h"

namespace tpo {

// In the order in which they are worth telling.
enum class Cause {
  kMismatch,
  kDead,
  kFailed,
  kStopped,
  kLeftOut,
  kLoader,
  kDeadlock,
  kSlowPhase,
  kComputes,
  kTransport,
  kUnknown
};

struct Finding {
  Cause cause = Cause::kUnknown;
  int culprit = -1;           // world rank
  std::vector<int> suspects;  // of a mismatch: who may be the culprit, if more than one
  uint64_t group = 0;         // 0: nobody waits
  Event op;                   // what is waited for
  std::vector<int> waiting;   // world ranks that wait in op
  std::vector<int> behind;    // that wait for those, in other operations
  std::vector<int> issuers;   // if nobody waits: that have issued op of the group of this name
  std::string group_name;
  double waited_s = 0;
  bool note = false;  // not an alarm yet
  std::string phase;  // of the culprit
  std::string text;   // one line without a prefix
  // Equal for the same stall seen again.
  std::string key() const;
};

struct VerdictLimits {
  double stall_seconds = 4, slow_phase_seconds = 300;
  bool post_mortem = false;  // the job is over: every wait counts
  // Longest wait in a group that ended without being an alarm; may be empty.
  std::function<double(uint64_t group)> longest_healthy_wait;
};

// Alarms and notes among the ranks, worst first, notes last. Ranks of a group without a view are unknown, and late if
// nobody else is.
std::vector<Finding> diagnose(std::span<const RankView> ranks, const VerdictLimits& limits);

// "0-36", "0, 2, 5-7".
std::string text_of_ranks(std::vector<int> ranks);

}  // namespace tpo
