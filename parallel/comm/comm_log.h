#pragma once
// CommLog: where the time of communication went, on one rank, for all groups of one world. Every wait adds to it.
// An operation is in flight from issued to done. While it is, the rank's thread computes (the operation is hidden),
// stands in a wait for it (exposed), or stands in a wait for another, which counts there. Exposed time has a reason:
//   late rank    before every rank had arrived: others computed longer, or their engine was busy
//   late issue   afterwards, if between issue and wait the thread computed for less time than the transfer took: there
//                was nothing to hide behind, as for the gradient that comes last in backward
//   link         afterwards otherwise: there was enough to hide behind, but earlier transfers kept the link busy
// Of a receive "every rank" is its sender. When the partner of a send comes is not known over MPI: it never counts as
// late. Thread rule: any thread; what is hidden is right for a rank that issues and waits on one thread.
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "parallel/comm/work.h"

namespace tpo {

// Sums over operations of one name.
struct CommUse {
  std::string group, what;
  CommOp op = CommOp::kBarrier;
  int64_t operations = 0, bytes = 0;  // CommRequest::bytes()
  double total_s = 0;                 // in flight
  double transfer_s = 0;              // of these, after every rank had arrived
  double hidden_s = 0;
  double late_rank_s = 0, late_issue_s = 0, link_s = 0;  // exposed
  double exposed_s() const { return late_rank_s + late_issue_s + link_s; }
  CommUse& operator+=(const CommUse& o);  // names stay
};

// The times of one operation, for which the caller stood in a wait from wait_begin_s to wait_end_s after it had stood
// in waits for others for `blocked_between_s` since it issued this one. Names are left empty.
CommUse comm_use(const CommRequest& request, const WorkTimes& times, double wait_begin_s, double wait_end_s,
                 double blocked_between_s);

class CommLog {
 public:
  void add(const CommRequest& request, const WorkTimes& times, double wait_begin_s, double wait_end_s,
           double blocked_before_s);
  // Seconds in waits since the start.
  double blocked_s() const;
  // By (group, op, what), in the order of first appearance; starts anew. Names beyond kMaxNames are summed as "others".
  std::vector<CommUse> take();

 private:
  static constexpr size_t kMaxNames = 4096;
  mutable std::mutex mutex_;
  double blocked_s_ = 0;
  std::vector<CommUse> uses_;
  std::unordered_map<std::string, size_t> places_;
};

}  // namespace tpo
