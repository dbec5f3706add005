#pragma once
// How long ranks usually wait for each other, by group: the longest wait that ended by itself. Waits during which a
// rank was in a phase that may take long (checkpoint, evaluation) say nothing about computing, and those that were told
// do not either.
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "parallel/program/rank_view.h"

namespace tpo {

class UsualWaits {
 public:
  // What ranks wait for at this moment; told: that wait is no usual one.
  void look(const std::vector<RankView>& views, const std::function<bool(uint64_t group)>& told);
  double longest(uint64_t group) const;

 private:
  struct Seen {
    uint64_t event = 0;
    double age_s = 0;
    bool slow = false;  // at some look some rank was in a slow phase
  };
  std::map<int, std::map<uint64_t, Seen>> waits_;  // by rank and group
  std::map<uint64_t, double> longest_;
};

}  // namespace tpo
