#pragma once
// The overlap report: what communication cost the steps of a run, by process group and by bucket or tensor, and why;
// beside it the figure that no clever accounting can improve, (step - step with communication stubbed out) / step.
#include <string>
#include <vector>

#include "launcher/run_files.h"
#include "parallel/comm/process_group.h"

namespace tpo {

// A step as it was and without communication, seconds on one rank. Forward and backward run a second time inside a
// CommStub; the update cannot, so of it what the rank was blocked for is communication. The step before it must not be
// one of a pair: the repeat waits for values that the update still sends around, which the next step then need not.
struct StubPair {
  double step_s = 0;                 // the whole step
  double with_s = 0, without_s = 0;  // begin_step to finish_grads, and in with_s what the rest was blocked for
};

// Of one rank, since the last report.
struct OverlapMeter {
  int64_t steps = 0;
  double seconds = 0;  // of these steps
  std::vector<CommUse> uses;
  std::vector<StubPair> pairs;
  void add_uses(const std::vector<CommUse>& more);  // sums by group, operation and name
};

struct OverlapReport {
  int64_t steps = 0;
  double step_s = 0;          // mean, of the slowest rank
  std::vector<CommUse> uses;  // per step, mean of the ranks that are in the group
  double stub_share = -1;     // median over pairs, each of the slowest rank with and without; -1: there was no pair
  int64_t pairs = 0;
  double exposed_s() const;  // of a step
  double exposed_share() const { return step_s > 0 ? exposed_s() / step_s : 0; }
};

// Joins the meters of all ranks; rank 0 gets the report, others an empty one. Collective.
OverlapReport gather_overlap(const OverlapMeter& meter, ProcessGroup& world);

// Why `use`, one of `all`, was exposed:
//   "hidden"         at most 2 % of its time was
//   "late rank"      most of it, others had not arrived
//   "small"          latency: it is at most a quarter of its group's largest operation and moves at less than half the
//                    rate of its group's fastest
//   "late gradient"  it was handed over when less compute was left than the transfer takes; of a reduced bucket
//   "no compute"     the same of others: sums and gathers whose result is needed at once
//   "link"           there was compute to hide behind, but transfers before it kept the link busy
const char* overlap_reason(const CommUse& use, const std::vector<CommUse>& all);

// At most `most` rows a group, those exposed longest; 0: all.
std::string overlap_table(const OverlapReport& report, size_t most = 12);
// {"kind": "overlap", "step": .., shares, "groups": [..], "table": the text of overlap_table}
JsonLine overlap_json(const OverlapReport& report, int64_t step);

}  // namespace tpo
