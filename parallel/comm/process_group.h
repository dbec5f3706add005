#pragma once
// ProcessGroup: an ordered set of ranks that talk. Everything that talks is behind this interface: rank threads of one
// process (comm/threads.h), MPI (comm/mpi.h), a group of one rank; they pass tests/parallel/conformance.h. Groups for
// meta tensors that talk to nobody are in comm/sim.h.
//
// Order: the collectives of one ProcessGroup are numbered, and every rank must issue the same ones in the same order
// (parallel/ORDER.md). Operation, sizes and `what` are compared; a difference is a CommError that names both sides.
// Sums and maxima are formed in rank order (over several nodes with several ranks: by node, comm/nodes.h), so that the
// result has the same bits on every rank and in every run with the same placement of ranks.
// Thread rule: one thread at a time calls a ProcessGroup; different ones may be used by different threads.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "parallel/comm/comm_log.h"
#include "parallel/comm/work.h"

namespace tpo {

class ProcessGroup {
 public:
  virtual ~ProcessGroup();
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }  // "world", "world.data", ...: for messages and traces

  // Tensors must be contiguous host memory (meta tensors in a group of one or a simulated one) and stay unread and
  // unwritten by the caller until the Work was waited for. `what` names the tensor or bucket in errors. Every dtype can
  // be reduced and moved; bf16 is summed in fp32 and rounded once (over several nodes: comm/nodes.h). Errors in the
  // arguments are CommErrors thrown before anything is sent.
  Work all_reduce(const Tensor& t, ReduceOp op, std::string_view what);  // in place
  Work broadcast(const Tensor& t, int root, std::string_view what);
  // out = the `in` of rank 0, 1, ...: out has size() times the elements of in. In place when in is this rank's part of
  // out; otherwise they may not overlap.
  Work all_gather(const Tensor& in, const Tensor& out, std::string_view what);
  // out = this rank's part, out of size() equal parts, of the reduced `in`. In place when out is this rank's part of
  // in, whose other parts keep their values; otherwise they may not overlap.
  Work reduce_scatter(const Tensor& in, const Tensor& out, ReduceOp op, std::string_view what);
  // Messages between two ranks match in order per (source, destination, tag); 0 <= tag < 32768. They are not numbered
  // with the collectives and may pass them. A send may stay incomplete until it is received. Sizes and dtypes are
  // compared: the receiver gets a CommError, the sender may.
  Work send(const Tensor& t, int peer, int tag, std::string_view what);
  Work recv(const Tensor& t, int peer, int tag, std::string_view what);
  Work barrier(std::string_view what);

  // Collective: zeros for a tensor that will be communicated again and again, such as a gradient bucket. Where ranks
  // share memory, an all_reduce, broadcast, or an all_gather or reduce_scatter in place, of it or of a part of it that
  // is the same on all ranks, works on the ranks' buffers themselves; elsewhere it is an ordinary tensor. Sizes are
  // compared like those of a collective. Shared bytes are not in the statistics of the stream's allocator.
  // Like split, with no Work of this rank in flight.
  Tensor shared_buffer(const Shape& shape, DType dtype = DType::kF32);

  // How sums over this group are formed: empty, in the order of ranks; else for each rank the node that adds it first
  // (comm/nodes.h).
  virtual std::vector<int> order_of_sums() const { return {}; }

  // Collective: ranks with the same color form a ProcessGroup, ordered by (key, rank). `label` is appended to the name.
  // Every Work of this rank, of other groups of its world too, must have been waited for, else CommError before
  // anything is sent: forming a group occupies the engine, and a peer that waits for an operation in flight here would
  // never come to its split.
  std::unique_ptr<ProcessGroup> split(int color, int key, std::string_view label);
  std::unique_ptr<ProcessGroup> split(int color, int key) { return split(color, key, std::to_string(color)); }
  // The same where (color, key) is a pure function of the rank, equal on all ranks: what a simulated group can do too.
  using ColorKey = std::function<std::pair<int, int>(int rank)>;
  virtual std::unique_ptr<ProcessGroup> split_by(const ColorKey& color_key_of, std::string_view label);

  // Blocking conveniences for single values and small records (losses, flags, names), also collectives.
  double all_reduce_value(double value, ReduceOp op, std::string_view what = "value");
  int64_t all_reduce_value(int64_t value, ReduceOp op, std::string_view what = "value");
  std::vector<std::vector<std::byte>> all_gather_bytes(std::span<const std::byte> mine,
                                                       std::string_view what = "bytes");
  std::vector<std::byte> broadcast_bytes(std::span<const std::byte> from_root, int root,
                                         std::string_view what = "bytes");

  // How bytes go, for logs: "shared memory", "MPI messages: cannot reserve ...", ...
  virtual std::string transport() const { return "memory of one process"; }
  uint64_t collectives_issued() const { return next_seq_; }
  // Of this rank in this group, the group it was split from, and all others of that world.
  CommLog& log() const { return *drops_->world->times; }

 protected:
  ProcessGroup(int rank, int size, std::string name, bool simulated = false);
  // Starts one checked request. Called in program order by one thread.
  virtual std::shared_ptr<WorkState> issue(std::shared_ptr<const CommRequest> request) = 0;
  virtual std::unique_ptr<ProcessGroup> do_split(int color, int key, std::string name) = 0;
  virtual Tensor do_shared_buffer(const Shape& shape, DType dtype) { return Tensor::zeros(shape, dtype); }
  // Before forming groups and buffers, `what`: nothing may be in flight, and all ranks come with the same `what`.
  void meet_idle(std::string_view what);
  // A group made from this one belongs to its world.
  void adopt(ProcessGroup& part) const { part.drops_->world = drops_->world; }
  // Operations of this group are recorded in the EventRing of this process, if it has one.
  void watch(std::span<const int> world_ranks);

  // For groups in which nobody else takes part: an operation that is over.
  static std::shared_ptr<WorkState> make_done(std::shared_ptr<const CommRequest> request);

 private:
  Work start(CommRequest request, std::initializer_list<Tensor> keep);
  Work start_raw(CommOp op, const void* in, void* out, int64_t count, DType dtype, int root, std::string_view what,
                 ReduceOp reduce = ReduceOp::kSum);
  void check_tensor(const CommRequest& r, const Tensor& t) const;
  void check_peer(const CommRequest& r, int peer, bool may_be_self) const;
  CommRequest request(CommOp op, const Tensor& in, const Tensor& out, int64_t count, std::string_view what) const;

  int rank_, size_;
  bool simulated_;
  std::string name_;
  int watched_ = -1;
  uint64_t next_seq_ = 0;
  std::shared_ptr<DropLog> drops_;
  friend class CommStub;
};

// While it lives, operations of `group`, of the group that it was split from, and of all others of that world are over
// at once on this rank and move nothing: the time of a step is then what it would be if communication were free.
// Results are whatever the memory holds, so whoever opens the scope throws them away. It is opened and closed by all
// ranks at the same point of their programs; a Work from before is real and may be waited for inside. Operations inside
// are checked but not numbered. split(), shared_buffer() and the blocking conveniences throw CommError inside, since
// they return values. Groups of one rank, which copy in memory, are as always.
class CommStub {
 public:
  explicit CommStub(ProcessGroup& group);  // CommError if there is one already
  ~CommStub() { world_->stubbed = false; }
  CommStub(const CommStub&) = delete;
  CommStub& operator=(const CommStub&) = delete;

 private:
  std::shared_ptr<CommWorld> world_;
};

// The group of one rank: every operation completes at once.
std::unique_ptr<ProcessGroup> make_single(std::string name = "single");

}  // namespace tpo
