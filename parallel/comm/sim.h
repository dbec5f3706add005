#pragma once
// Simulated groups: what one rank of a world of any size would issue, without peers and without data. For runs on the
// meta device, where the trainer itself says what a step will need and send.
// Every operation is checked as in a real group, counted, and over at once. Tensors must be on meta. Single values and
// records (all_reduce_value, all_gather_bytes) come out as if every rank had given what this one gave: a sum is n times
// the value; a broadcast leaves what the caller had. split throws CommError, since what others give is not known here;
// split_by works and gives simulated groups.
#include <map>

#include "parallel/comm/process_group.h"

namespace tpo {

// Payload, as the request states it: bytes of the tensor; all_gather: of `in`; reduce_scatter: of `out`. Single values
// and records are counted as the collectives they are.
struct CommCount {
  int64_t calls = 0, bytes = 0;
  bool operator==(const CommCount&) const = default;
};

// Of a simulated world and all groups made from it, by group name and operation.
class IssuedOps {
 public:
  void add(const CommRequest& r);
  CommCount of(const std::string& group, CommOp op) const;
  // One line per operation, "all_reduce #12 of 'bucket 3' (sum, 1048576 f32, 4194304 bytes) in group world.data, rank 1
  // of 4", in program order; only while listing.
  void list(bool on) { listing_ = on; }
  const std::vector<std::string>& lines() const { return lines_; }

 private:
  std::map<std::pair<std::string, CommOp>, CommCount> counts_;
  bool listing_ = false;
  std::vector<std::string> lines_;
};

// Throws CommError if rank is not in 0..size-1. `stats` may be null.
std::unique_ptr<ProcessGroup> make_simulated(int rank, int size, std::shared_ptr<IssuedOps> stats = nullptr,
                                             std::string name = "world");

}  // namespace tpo
