#include "parallel/comm/mpi.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <functional>

#include "core/error.h"
#include "parallel/comm/arena.h"
#include "parallel/comm/engine.h"
#include "parallel/comm/wire_header.h"

namespace tpo {
namespace {

// One call on 64 MiB takes four times as long as 1-4 MiB pieces, which stay in cache.
constexpr int64_t kPieceBytes = int64_t{1} << 20;
constexpr int64_t kMaxMessageBytes = int64_t{1} << 30;  // MPI counts are int

void check_mpi(int rc, const std::string& what) {
  if (rc == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(rc, text, &length);
  throw CommError(cat(what, " failed: ", std::string(text, static_cast<size_t>(length))));
}

MPI_Datatype mpi_type(DType t) {
  switch (t) {
    case DType::kF32:
      return MPI_FLOAT;
    case DType::kI32:
      return MPI_INT32_T;
    case DType::kI64:
      return MPI_INT64_T;
    case DType::kU8:
      return MPI_UINT8_T;
    case DType::kBF16:
      break;
  }
  throw CommError(cat("MPI cannot reduce ", t));
}

// What all groups of a process share. Destroyed with the last of them. Communicators are left to MPI_Finalize: freeing
// one is collective, and a rank that unwinds must not wait for the others.
struct Context {
  MpiOptions options;
  std::vector<int> node;        // per world rank
  std::vector<int> local_rank;  // per world rank: its place on its node
  std::unique_ptr<SharedMemory> shared_bells;
  Doorbell own_bell;
  std::unique_ptr<Engine> engine;
  int names = 0;
  bool shares_memory() const { return shared_bells != nullptr; }
  Doorbell& bell(int world_rank) const {
    return reinterpret_cast<Doorbell*>(shared_bells->data())[local_rank[static_cast<size_t>(world_rank)]];
  }
};

// Of one group on this rank; tasks in flight keep it alive.
struct GroupState {
  MPI_Comm comm = MPI_COMM_NULL;
  std::vector<int> world_ranks;
  std::unique_ptr<SharedMemory> memory;
  std::shared_ptr<Arena> arena;  // null: through MPI
  std::string broken;            // engine thread only
};

// A segment that rank 0 of comm creates and all ranks map, or null on every rank if any of them cannot.
std::unique_ptr<SharedMemory> share_memory(MPI_Comm comm, int serial, size_t bytes) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  char name[64] = {};
  std::unique_ptr<SharedMemory> memory;
  const auto attempt = [&](auto make) {
    try {
      memory = make(name, bytes);
    } catch (const IoError&) {  // slower through MPI, but correct
    }
  };
  if (rank == 0) {
    std::snprintf(name, sizeof name, "/tpo_dist.%ld.%d", static_cast<long>(getpid()), serial);
    SharedMemory::unlink(name);  // a leftover of a killed process with this number
    attempt(SharedMemory::create);
  }
  MPI_Bcast(name, sizeof name, MPI_CHAR, 0, comm);
  if (rank != 0) attempt(SharedMemory::open);
  int ok = memory ? 1 : 0, all_ok = 0;
  MPI_Allreduce(&ok, &all_ok, 1, MPI_INT, MPI_MIN, comm);
  if (rank == 0) SharedMemory::unlink(name);
  if (all_ok == 0) memory.reset();
  return memory;
}

// A collective through MPI: an exchange of headers, then non-blocking calls on pieces, one after the other.
class MpiCollective final : public EngineTask {
 public:
  MpiCollective(std::shared_ptr<GroupState> group, std::shared_ptr<const CommRequest> request, bool verify)
      : group_(std::move(group)), request_(std::move(request)), r_(*request_), verifying_(verify) {
    width_ = static_cast<int64_t>(size_of(r_.dtype));
    piece_ = kPieceBytes / width_;
    pieces_ = (r_.count + piece_ - 1) / piece_;
    calls_ = r_.op == CommOp::kReduceScatter ? pieces_ * r_.size
             : r_.op == CommOp::kBarrier     ? (verify ? 0 : 1)
                                             : pieces_;
  }

  bool rings() const override { return false; }

  Progress poll() override {
    check<CommError>(group_->broken.empty(), describe(r_), " cannot run: ", group_->broken);
    if (!started_) start();
    bool moved = false;
    for (;;) {
      int finished = 1;
      if (pending_ != MPI_REQUEST_NULL) {
        check_mpi(MPI_Test(&pending_, &finished, MPI_STATUS_IGNORE), describe(r_));
        moved |= finished != 0;
      }
      if (!finished) return moved ? Progress::kSome : Progress::kNone;
      if (verifying_) compare_headers();
      if (next_ == calls_) return Progress::kDone;
      check_mpi(issue(next_++), describe(r_));
      if (begun_s == 0) begun_s = steady_seconds();
    }
  }

 private:
  void start() {
    started_ = true;
    if (!verifying_) return;
    mine_ = make_header(r_);
    headers_.resize(static_cast<size_t>(r_.size));
    check_mpi(MPI_Iallgather(&mine_, sizeof mine_, MPI_BYTE, headers_.data(), sizeof mine_, MPI_BYTE, group_->comm,
                             &pending_),
              describe(r_));
  }

  void compare_headers() {
    verifying_ = false;
    begun_s = steady_seconds();
    for (int rank = 0; rank < r_.size; ++rank) {
      const std::string why = header_mismatch(r_, headers_[static_cast<size_t>(rank)], rank);
      if (why.empty()) continue;
      group_->broken = why;
      throw CommError(why);
    }
  }

  int issue(int64_t call) {
    const int64_t begin = call % std::max<int64_t>(1, pieces_) * piece_;
    const auto n = static_cast<int>(std::min(piece_, r_.count - begin));
    const int bytes = n * static_cast<int>(width_);
    const MPI_Op op = r_.reduce == ReduceOp::kSum ? MPI_SUM : MPI_MAX;
    std::byte* out = r_.out + begin * width_;
    switch (r_.op) {
      case CommOp::kAllReduce:
        return MPI_Iallreduce(MPI_IN_PLACE, out, n, mpi_type(r_.dtype), op, group_->comm, &pending_);
      case CommOp::kBroadcast:
        return MPI_Ibcast(out, bytes, MPI_BYTE, r_.peer, group_->comm, &pending_);
      case CommOp::kAllGather:
        return gather_piece(r_.in + begin * width_, out, bytes);
      case CommOp::kReduceScatter: {
        // One reduction per part: MPI's own reduce_scatter takes 5 to 10 times as long.
        const auto root = static_cast<int>(call / pieces_);
        return MPI_Ireduce(r_.in + (root * r_.count + begin) * width_, out, n, mpi_type(r_.dtype), op, root,
                           group_->comm, &pending_);
      }
      default:
        return MPI_Ibarrier(group_->comm, &pending_);
    }
  }

  // Rank k's piece lands at out + k * (bytes of the whole contribution).
  int gather_piece(const std::byte* in, std::byte* out, int bytes) {
    MPI_Datatype piece, spaced;
    MPI_Type_contiguous(bytes, MPI_BYTE, &piece);
    MPI_Type_create_resized(piece, 0, static_cast<MPI_Aint>(r_.bytes()), &spaced);
    MPI_Type_commit(&spaced);
    const int rc = MPI_Iallgather(in, bytes, MPI_BYTE, out, 1, spaced, group_->comm, &pending_);
    MPI_Type_free(&spaced);
    MPI_Type_free(&piece);
    return rc;
  }

  std::shared_ptr<GroupState> group_;
  std::shared_ptr<const CommRequest> request_;
  const CommRequest& r_;
  bool verifying_, started_ = false;
  WireHeader mine_;
  std::vector<WireHeader> headers_;
  int64_t width_ = 1, piece_ = 1, pieces_ = 0, calls_ = 0, next_ = 0;
  MPI_Request pending_ = MPI_REQUEST_NULL;
};

// A send or a recv; beyond 1 GiB as several messages of the same tag.
class MpiMessage final : public EngineTask {
 public:
  MpiMessage(std::shared_ptr<GroupState> group, std::shared_ptr<const CommRequest> request)
      : group_(std::move(group)), request_(std::move(request)), r_(*request_) {}

  bool rings() const override { return false; }

  Progress poll() override {
    if (pending_.empty()) start();
    int finished = 0;
    std::vector<MPI_Status> statuses(pending_.size());
    check_mpi(MPI_Testall(static_cast<int>(pending_.size()), pending_.data(), &finished, statuses.data()),
              describe(r_));
    if (!finished) return Progress::kNone;
    int64_t received = r_.op == CommOp::kSend ? r_.bytes() : 0;
    for (size_t i = 0; i < statuses.size() && r_.op == CommOp::kRecv; ++i) {
      int bytes = 0;
      MPI_Get_count(&statuses[i], MPI_BYTE, &bytes);
      received += bytes;
    }
    check<CommError>(received == r_.bytes(), describe(r_), " got ", received, " bytes");
    return Progress::kDone;
  }

 private:
  void start() {
    begun_s = steady_seconds();
    int64_t begin = 0;
    do {
      const auto n = static_cast<int>(std::min(kMaxMessageBytes, r_.bytes() - begin));
      MPI_Request& request = pending_.emplace_back(MPI_REQUEST_NULL);
      check_mpi(r_.op == CommOp::kSend
                    ? MPI_Isend(r_.in + begin, n, MPI_BYTE, r_.peer, r_.tag, group_->comm, &request)
                    : MPI_Irecv(r_.out + begin, n, MPI_BYTE, r_.peer, r_.tag, group_->comm, &request),
                describe(r_));
      begin += n;
    } while (begin < r_.bytes());
  }

  std::shared_ptr<GroupState> group_;
  std::shared_ptr<const CommRequest> request_;
  const CommRequest& r_;
  std::vector<MPI_Request> pending_;
};

// This rank's part of a shared segment, as one block.
class PartAllocator final : public Allocator {
 public:
  PartAllocator(std::shared_ptr<SharedMemory> memory, std::byte* part, size_t bytes)
      : memory_(std::move(memory)), part_(part), bytes_(bytes) {}
  void* allocate(size_t bytes, MemoryKind) override {
    check<DeviceError>(bytes <= bytes_, "a shared buffer of ", bytes_, " bytes was asked for ", bytes);
    return part_;
  }
  void free(void*, size_t, MemoryKind) override {}
  AllocatorStats stats() const override { return {}; }
  void reset_peak() override {}
  Device device() const override { return Device::kCpu; }

 private:
  std::shared_ptr<SharedMemory> memory_;
  std::byte* part_;
  size_t bytes_;
};

// On the engine thread, or before it exists. Collective over comm.
std::shared_ptr<GroupState> make_state(Context& context, MPI_Comm comm, int world_rank) {
  auto state = std::make_shared<GroupState>();
  state->comm = comm;
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  int size = 0, rank = 0;
  MPI_Comm_size(comm, &size);
  MPI_Comm_rank(comm, &rank);
  state->world_ranks.resize(static_cast<size_t>(size));
  check_mpi(MPI_Allgather(&world_rank, 1, MPI_INT, state->world_ranks.data(), 1, MPI_INT, comm), "forming a group");
  const auto node_of = [&](int r) { return context.node[static_cast<size_t>(r)]; };
  const bool one_node = std::all_of(state->world_ranks.begin(), state->world_ranks.end(),
                                    [&](int r) { return node_of(r) == node_of(world_rank); });
  if (size == 1 || !one_node || !context.shares_memory()) return state;
  state->memory = share_memory(comm, context.names++, Arena::bytes_needed(size));
  if (!state->memory) return state;
  std::vector<Doorbell*> bells;
  for (const int r : state->world_ranks) bells.push_back(&context.bell(r));
  state->arena = std::make_shared<Arena>(state->memory->data(), rank, std::move(bells));
  return state;
}

class MpiGroup final : public ProcessGroup {
 public:
  MpiGroup(std::shared_ptr<Context> context, std::shared_ptr<GroupState> state, int rank, std::string name)
      : ProcessGroup(rank, static_cast<int>(state->world_ranks.size()), std::move(name)),
        context_(std::move(context)),
        state_(std::move(state)),
        queue_(context_->engine->add_queue()) {}

  Tensor shared_buffer(const Shape& shape, DType dtype) override {
    constexpr size_t kPage = 4096;
    const size_t bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
    const size_t part = (bytes + kPage - 1) / kPage * kPage;
    std::shared_ptr<SharedMemory> memory;
    if (state_->arena && part > 0) {
      context_->engine->call([&] {
        memory = share_memory(state_->comm, context_->names++, part * static_cast<size_t>(size()));
        if (memory) state_->arena->add_shared(memory, part);
      });
    }
    if (!memory) return ProcessGroup::shared_buffer(shape, dtype);
    std::byte* mine = memory->data() + part * static_cast<size_t>(rank());
    Stream stream(Device::kCpu, std::make_shared<PartAllocator>(std::move(memory), mine, part));
    return Tensor::zeros(shape, dtype, stream);
  }

 protected:
  std::shared_ptr<WorkState> issue(std::shared_ptr<const CommRequest> r) override {
    std::unique_ptr<EngineTask> task;
    if (!r->collective()) {
      task = std::make_unique<MpiMessage>(state_, r);
    } else if (state_->arena) {
      task = Arena::make_task(state_->arena, r);
    } else {
      task = std::make_unique<MpiCollective>(state_, r, context_->options.verify);
    }
    const int queue = r->collective() ? queue_ : Engine::kNoQueue;
    return context_->engine->submit(queue, std::move(r), std::move(task));
  }

  std::unique_ptr<ProcessGroup> do_split(int color, int key, std::string name) override {
    std::shared_ptr<GroupState> state;
    int new_rank = 0;
    context_->engine->call([&] {
      MPI_Comm comm = MPI_COMM_NULL;
      check_mpi(MPI_Comm_split(state_->comm, color, key, &comm), cat("split of group ", this->name()));
      MPI_Comm_rank(comm, &new_rank);
      state = make_state(*context_, comm, state_->world_ranks[static_cast<size_t>(rank())]);
    });
    if (state->world_ranks.size() == 1) return make_single(std::move(name));
    return std::make_unique<MpiGroup>(context_, std::move(state), new_rank, std::move(name));
  }

 private:
  std::shared_ptr<Context> context_;
  std::shared_ptr<GroupState> state_;
  int queue_;
};

// Nodes are numbered by the world rank of their first member.
void find_nodes(Context& context, MPI_Comm world, MPI_Comm node_comm) {
  int size = 0, rank = 0, local = 0;
  MPI_Comm_size(world, &size);
  MPI_Comm_rank(world, &rank);
  MPI_Comm_rank(node_comm, &local);
  int leader = rank;
  MPI_Bcast(&leader, 1, MPI_INT, 0, node_comm);
  context.node.resize(static_cast<size_t>(size));
  context.local_rank.resize(static_cast<size_t>(size));
  MPI_Allgather(&leader, 1, MPI_INT, context.node.data(), 1, MPI_INT, world);
  MPI_Allgather(&local, 1, MPI_INT, context.local_rank.data(), 1, MPI_INT, world);
}

}  // namespace

MpiWorld::MpiWorld(int* argc, char*** argv) : unwinding_(std::uncaught_exceptions()) {
  int provided = 0;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  check<CommError>(provided >= MPI_THREAD_SERIALIZED,
                   "this MPI library lets only the main thread call it; tpo_dist needs MPI_THREAD_SERIALIZED or more");
  threads_multiple_ = provided == MPI_THREAD_MULTIPLE;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node);
  MPI_Comm_rank(node, &node_rank_);
  MPI_Comm_size(node, &node_size_);
  MPI_Comm_free(&node);
  char name[MPI_MAX_PROCESSOR_NAME];
  int length = 0;
  MPI_Get_processor_name(name, &length);
  node_.assign(name, static_cast<size_t>(length));
}

MpiWorld::~MpiWorld() {
  if (std::uncaught_exceptions() == unwinding_) MPI_Finalize();
}

void MpiWorld::abort(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

std::unique_ptr<ProcessGroup> make_mpi_world(MpiOptions options) {
  int ready = 0, level = 0;
  MPI_Initialized(&ready);
  check<CommError>(ready != 0, "MPI is not initialised; make an MpiWorld first");
  MPI_Query_thread(&level);
  check<CommError>(level >= MPI_THREAD_SERIALIZED, "MPI was initialised without MPI_THREAD_SERIALIZED");
  MPI_Comm world = MPI_COMM_NULL, node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
  int rank = 0, node_size = 1;
  MPI_Comm_rank(world, &rank);
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node);
  MPI_Comm_size(node, &node_size);
  auto context = std::make_shared<Context>();
  context->options = options;
  find_nodes(*context, world, node);
  if (options.arena && node_size > 1) {
    context->shared_bells = share_memory(node, context->names++, sizeof(Doorbell) * static_cast<size_t>(node_size));
  }
  MPI_Comm_free(&node);
  context->engine = std::make_unique<Engine>(context->shares_memory() ? context->bell(rank) : context->own_bell);
  std::shared_ptr<GroupState> state;
  context->engine->call([&] { state = make_state(*context, world, rank); });
  if (state->world_ranks.size() == 1) return make_single("world");
  return std::make_unique<MpiGroup>(std::move(context), std::move(state), rank, "world");
}

}  // namespace tpo
