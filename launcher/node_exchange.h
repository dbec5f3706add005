#pragma once
// What supervisors of several nodes tell each other: small files in <run.folder>/guard. A supervisor that has a reason
// writes HOST.alert; while one of these keeps changing, every supervisor publishes what its ranks' rings say in
// HOST.views, twice a second. No two nodes write one file: each would take the other's half-written one away. Files
// are opened anew each time, which is when network file systems look at the server. Only changes of a file count, so
// that clocks of nodes need not agree.
#include <map>
#include <string>
#include <vector>

#include "parallel/program/rank_view.h"

namespace tpo {

class NodeExchange {
 public:
  // One turn of the supervisor's loop, at `now_s` of any clock. Returns the ranks of other nodes, empty if not
  // suspicious or nobody answered yet.
  std::vector<RankView> turn(const std::string& run_folder, const std::vector<RankView>& mine, bool suspicious,
                             double now_s);
  // Removes what this node wrote.
  void leave();

 private:
  struct Seen {
    size_t hash = 0;
    double changed_s = 0;
  };
  bool changing(const std::string& name, const std::string& bytes, double now_s);
  void enter(const std::string& run_folder, const std::string& host, double now_s);
  void publish(const std::vector<RankView>& mine);

  std::string folder_, own_;  // own_: the beginning of the names of this node's files
  std::map<std::string, Seen> seen_;
  double last_s_ = -1e9;
  std::vector<RankView> others_;
};

}  // namespace tpo
