#pragma once
// Work: the handle of one communication in flight. Move-only; it must be waited for exactly where its result, or the
// memory of its tensors, is needed.
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace tpo {

enum class ReduceOp : uint8_t { kSum = 0, kMax = 1 };
enum class CommOp : uint8_t { kAllReduce, kBroadcast, kAllGather, kReduceScatter, kBarrier, kSend, kRecv };
const char* name_of(CommOp op);

// One operation as every backend sees it.
struct CommRequest {
  CommOp op = CommOp::kBarrier;
  ReduceOp reduce = ReduceOp::kSum;
  DType dtype = DType::kU8;
  int64_t count = 0;  // elements: of the tensor; all_gather: of `in`; reduce_scatter: of `out`
  const std::byte* in = nullptr;
  std::byte* out = nullptr;  // equal to in for operations in place
  int peer = -1;             // root of a broadcast, partner of a send or recv
  int tag = 0;               // of a send or recv
  int rank = 0, size = 1;    // of the caller in its group
  uint64_t seq = 0;          // number of the collective within its group; unused by send and recv
  std::string what, group;
  int watched = -1;   // slot of the group in this process's EventRing; -1: not recorded
  uint64_t hash = 0;  // of group, operation, size and name; set if watched
  int64_t bytes() const { return count * static_cast<int64_t>(size_of(dtype)); }
  bool collective() const { return op != CommOp::kSend && op != CommOp::kRecv; }
};
// "all_reduce #12 of 'bucket 3' (sum, 1048576 f32, 4194304 bytes) in group world.data, rank 1 of 4"
std::string describe(const CommRequest& r);

// For drills of the guard (launcher/fault.h): sees every request before it gets its number; may change its size, and
// makes this rank leave the operation out by returning true. Null but in a drill.
using CommDrill = bool (*)(CommRequest& request);
void set_comm_drill(CommDrill drill);
CommDrill comm_drill();

// Times on the steady clock, seconds.
struct WorkTimes {
  double issued_s = 0;  // the caller handed it over
  double begun_s = 0;   // every rank had arrived, where the backend knows; else when it was started
  double done_s = 0;
};

// Shared between the caller's Work and the backend.
class WorkState {
 public:
  explicit WorkState(std::shared_ptr<const CommRequest> r) : request_(std::move(r)) {}
  virtual ~WorkState() = default;
  virtual bool done() = 0;  // finished, well or badly
  virtual void wait() = 0;  // blocks; throws CommError if it failed
  const CommRequest& request() const { return *request_; }
  double blocked_before_s = 0;  // CommLog::blocked_s() when it was issued
  WorkTimes times;              // complete once done() returned true or wait() returned
  std::vector<Tensor> keep;     // the memory lives until the operation is over, even if the caller unwinds

 private:
  std::shared_ptr<const CommRequest> request_;
};

class CommLog;

// What all groups of a world share on one rank.
struct CommWorld {
  std::shared_ptr<CommLog> times;    // of Works that were waited for
  std::atomic<int> open{0};          // Works of groups of several ranks that were not waited for yet
  std::atomic<bool> stubbed{false};  // a CommStub is alive
};

// What a ProcessGroup learns from its Works: the first that was destroyed without a wait, and what its world keeps.
struct DropLog {
  std::mutex mutex;
  std::string first;
  std::shared_ptr<CommWorld> world;
};

class Work {
 public:
  Work() = default;  // empty: done, waits return at once
  Work(std::shared_ptr<WorkState> state, std::shared_ptr<DropLog> drops);
  Work(Work&& o) noexcept = default;
  Work& operator=(Work&& o) noexcept;
  // Dropping an un-waited Work is a bug of the caller. With TPO_DEBUG the next call on its ProcessGroup throws a
  // CommError that names it (a destructor cannot); always, the memory stays valid until the operation is over.
  ~Work();

  // Makes later work of the stream see the result. Never blocks the host when the stream is a GPU's; on the CPU,
  // where work runs inline, it is wait_host().
  void wait(Stream& stream);
  // Blocks until the operation is over. Throws CommError naming op, sizes, `what`, group and peers if it failed.
  void wait_host();
  bool done() const { return !state_ || state_->done(); }
  // Requires: waited for. Zeros for an empty Work.
  WorkTimes times() const { return times_; }

 private:
  void drop() noexcept;
  std::shared_ptr<WorkState> state_;
  std::shared_ptr<DropLog> drops_;
  WorkTimes times_;
};

// Seconds on the steady clock.
double steady_seconds();

}  // namespace tpo
