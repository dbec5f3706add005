#include "parallel/comm/comm_log.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace tpo {

CommUse& CommUse::operator+=(const CommUse& o) {
  operations += o.operations, bytes += o.bytes;
  total_s += o.total_s, transfer_s += o.transfer_s, hidden_s += o.hidden_s;
  late_rank_s += o.late_rank_s, late_issue_s += o.late_issue_s, link_s += o.link_s;
  return *this;
}

CommUse comm_use(const CommRequest& request, const WorkTimes& times, double wait_begin_s, double wait_end_s,
                 double blocked_between_s) {
  CommUse use;
  use.op = request.op;
  use.operations = 1, use.bytes = request.bytes();
  use.total_s = std::max(0.0, times.done_s - times.issued_s);
  use.transfer_s = std::clamp(times.done_s - times.begun_s, 0.0, use.total_s);
  const double computed = std::max(0.0, wait_begin_s - times.issued_s - blocked_between_s);
  use.hidden_s = std::min(computed, use.total_s);
  const double late = std::clamp(times.begun_s - wait_begin_s, 0.0, wait_end_s - wait_begin_s);
  use.late_rank_s = late;
  (computed < use.transfer_s ? use.late_issue_s : use.link_s) = wait_end_s - wait_begin_s - late;
  return use;
}

void CommLog::add(const CommRequest& request, const WorkTimes& times, double wait_begin_s, double wait_end_s,
                  double blocked_before_s) {
  std::string name = cat(request.group, '\n', static_cast<int>(request.op), request.what);
  std::scoped_lock lock(mutex_);
  const CommUse use = comm_use(request, times, wait_begin_s, wait_end_s, blocked_s_ - blocked_before_s);
  blocked_s_ += wait_end_s - wait_begin_s;
  const bool full = uses_.size() >= kMaxNames && !places_.contains(name);
  if (full) name = "\n";
  const auto [at, is_new] = places_.try_emplace(std::move(name), uses_.size());
  if (is_new) {
    uses_.emplace_back();
    uses_.back().group = full ? "" : request.group;
    uses_.back().what = full ? "others" : request.what;
    uses_.back().op = request.op;
  }
  uses_[at->second] += use;
}

double CommLog::blocked_s() const {
  std::scoped_lock lock(mutex_);
  return blocked_s_;
}

std::vector<CommUse> CommLog::take() {
  std::scoped_lock lock(mutex_);
  places_.clear();
  return std::exchange(uses_, {});
}

}  // namespace tpo
