#include "parallel/comm/mpi_reference.h"

#include <mpi.h>

#include <cstring>
#include <limits>

#include "core/error.h"
#include "parallel/comm/mpi_error.h"

namespace tpo {
namespace {

bool running() {
  int begun = 0, ended = 0;
  MPI_Initialized(&begun);
  MPI_Finalized(&ended);
  return begun != 0 && ended == 0;
}

// A collective that is over, or a message that the wait completes.
class ReferenceWork final : public WorkState {
 public:
  ReferenceWork(std::shared_ptr<const CommRequest> r, MPI_Request pending)
      : WorkState(std::move(r)), pending_(pending) {}
  bool done() override {
    int finished = 1;
    check_mpi(MPI_Test(&pending_, &finished, MPI_STATUS_IGNORE), describe(request()));
    return finished != 0;
  }
  void wait() override {
    check_mpi(MPI_Wait(&pending_, MPI_STATUS_IGNORE), describe(request()));
    times.begun_s = times.done_s = steady_seconds();
  }

 private:
  MPI_Request pending_;  // MPI_REQUEST_NULL: over
};

class ReferenceGroup final : public ProcessGroup {
 public:
  // Owns comm, which is left to MPI_Finalize: freeing it is collective, and a rank that unwinds must not wait.
  ReferenceGroup(MPI_Comm comm, int rank, int size, std::string name)
      : ProcessGroup(rank, size, std::move(name)), comm_(comm) {
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  }

 protected:
  std::shared_ptr<WorkState> issue(std::shared_ptr<const CommRequest> r) override {
    MPI_Request pending = MPI_REQUEST_NULL;
    check<CommError>(r->count <= std::numeric_limits<int>::max(), describe(*r),
                     ": one MPI call takes at most 2^31 - 1");
    const bool reduces = r->op == CommOp::kAllReduce || r->op == CommOp::kReduceScatter;
    check<CommError>(!reduces || r->dtype != DType::kBF16, describe(*r), ": MPI's own reductions know no bf16");
    check_mpi(call(*r, pending), describe(*r));
    return std::make_shared<ReferenceWork>(std::move(r), pending);
  }

  std::unique_ptr<ProcessGroup> do_split(int color, int key, std::string name) override {
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_, color, key, &part), cat("split of group ", this->name()));
    return make(part, std::move(name));
  }

 public:
  static std::unique_ptr<ProcessGroup> make(MPI_Comm comm, std::string name) {
    int rank = 0, size = 1;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    return std::make_unique<ReferenceGroup>(comm, rank, size, std::move(name));
  }

 private:
  int call(const CommRequest& r, MPI_Request& pending) const {
    const auto n = static_cast<int>(r.count);
    const MPI_Op op = r.reduce == ReduceOp::kSum ? MPI_SUM : MPI_MAX;
    MPI_Datatype type = MPI_BYTE;
    switch (r.dtype) {
      case DType::kF32:
        type = MPI_FLOAT;
        break;
      case DType::kI32:
        type = MPI_INT32_T;
        break;
      case DType::kI64:
        type = MPI_INT64_T;
        break;
      case DType::kU8:
        type = MPI_UINT8_T;
        break;
      case DType::kBF16:  // moved, never reduced
        type = MPI_UINT16_T;
        break;
    }
    switch (r.op) {
      case CommOp::kAllReduce:
        return MPI_Allreduce(MPI_IN_PLACE, r.out, n, type, op, comm_);
      case CommOp::kBroadcast:
        return MPI_Bcast(r.out, n, type, r.peer, comm_);
      case CommOp::kAllGather:
        return MPI_Allgather(r.in == r.out + r.rank * r.bytes() ? MPI_IN_PLACE : r.in, n, type, r.out, n, type, comm_);
      case CommOp::kReduceScatter:
        return reduce_scatter(r, n, type, op);
      case CommOp::kSend:
        return MPI_Isend(r.in, n, type, r.peer, r.tag, comm_, &pending);
      case CommOp::kRecv:
        return MPI_Irecv(r.out, n, type, r.peer, r.tag, comm_, &pending);
      case CommOp::kBarrier:
        break;
    }
    return MPI_Barrier(comm_);
  }

  // MPI forbids overlap, and its own reduce_scatter in place loses the other parts.
  int reduce_scatter(const CommRequest& r, int n, MPI_Datatype type, MPI_Op op) const {
    if (r.out != r.in + r.rank * r.bytes()) return MPI_Reduce_scatter_block(r.in, r.out, n, type, op, comm_);
    std::vector<std::byte> part(static_cast<size_t>(r.bytes()));
    const int rc = MPI_Reduce_scatter_block(r.in, part.data(), n, type, op, comm_);
    if (!part.empty()) std::memcpy(r.out, part.data(), part.size());
    return rc;
  }

  MPI_Comm comm_;
};

}  // namespace

MpiFacts mpi_facts() {
  MpiFacts facts;
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0, major = 0, minor = 0, level = 0;
  MPI_Get_library_version(text, &length);
  facts.library = text;  // MPI's length counts a terminating zero
  facts.library = facts.library.substr(0, facts.library.find_first_of(",\n"));
  MPI_Get_version(&major, &minor);
  facts.standard = cat(major, ".", minor);
  facts.running = running();
  if (!facts.running) return facts;
  MPI_Query_thread(&level);
  facts.thread_level = level == MPI_THREAD_MULTIPLE     ? "MPI_THREAD_MULTIPLE"
                       : level == MPI_THREAD_SERIALIZED ? "MPI_THREAD_SERIALIZED"
                                                        : "MPI_THREAD_FUNNELED or less";
  facts.one_thread = level < MPI_THREAD_SERIALIZED;
  return facts;
}

std::unique_ptr<ProcessGroup> make_mpi_reference() {
  if (!running()) return nullptr;
  MPI_Comm world = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
  return ReferenceGroup::make(world, "mpi");
}

std::vector<int> mpi_nodes() {
  if (!running()) return {0};
  MPI_Comm node = MPI_COMM_NULL;
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node), "split by node");
  int first = rank;
  MPI_Bcast(&first, 1, MPI_INT, 0, node);
  MPI_Comm_free(&node);
  std::vector<int> nodes(static_cast<size_t>(size));
  MPI_Allgather(&first, 1, MPI_INT, nodes.data(), 1, MPI_INT, MPI_COMM_WORLD);
  return nodes;
}

}  // namespace tpo
