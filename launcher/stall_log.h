#pragma once
// What the guard says of what it finds: a late rank once, again each minute, when its cause changes, and when it is
// over. Notes (verdict.h) once, and the next of that phase only if it lasts twice as long. Several late ranks beyond
// three in one look are one line. Time and texts go in, lines come out; supervisor.h prints them.
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "parallel/program/verdict.h"

namespace tpo {

class StallLog {
 public:
  struct Look {
    double now = 0;                             // seconds of any clock
    bool post_mortem = false;                   // the job is over: its first cause is told, nothing else
    bool ended = false;                         // some rank has failed: nothing is over any more
    double gone_s = 0.3;                        // a stall that no look shows for so long is over
    std::function<bool(const Finding&)> tells;  // false: not by us, or not yet
  };
  // All findings of this moment, also those that another supervisor tells; worst first.
  std::vector<std::string> look(const std::vector<Finding>& found, const Look& l);

  // An alarm was told and goes on.
  bool alarmed() const;
  // A wait in this group was told and goes on: nothing to learn from.
  bool told_in(uint64_t group) const;
  // Everything told but notes.
  const std::vector<std::string>& verdict() const { return verdict_; }

 private:
  struct Told {
    Finding finding;  // as it was told
    double since = 0, first = 0, last = 0, seen = 0;
  };
  bool is_news(const Finding& f, const Look& l) const;
  void over(const Look& l, std::vector<std::string>& lines);

  std::map<int, Told> told_;               // by late rank
  std::set<std::string> seen_;             // keys of the last look
  std::map<std::string, double> longest_;  // note, by phase
  std::vector<std::string> verdict_;
};

}  // namespace tpo
