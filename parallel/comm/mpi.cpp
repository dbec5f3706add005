#include "parallel/comm/mpi.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <random>
#include <utility>

#include "core/error.h"
#include "parallel/comm/arena.h"
#include "parallel/comm/engine.h"
#include "parallel/comm/mpi_error.h"
#include "parallel/comm/mpi_reference.h"
#include "parallel/comm/nodes.h"

namespace tpo {

void check_mpi(int rc, const std::string& what) {
  if (rc == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(rc, text, &length);
  throw CommError(cat(what, " failed: ", std::string(text, static_cast<size_t>(length))));
}

namespace {

// What all groups of a process share. Destroyed with the last of them. Communicators are left to MPI_Finalize: freeing
// one is collective, and a rank that unwinds must not wait for the others.
struct Context {
  MpiOptions options;
  std::vector<int> node;        // per world rank
  std::vector<int> local_rank;  // per world rank: its place on its node
  std::unique_ptr<SharedMemory> shared_bells;
  Doorbell own_bell;
  std::unique_ptr<Engine> engine;
  Doorbell& bell(int world_rank) {
    if (!shared_bells) return own_bell;
    return reinterpret_cast<Doorbell*>(shared_bells->data())[local_rank[static_cast<size_t>(world_rank)]];
  }
};

// Of one group on this rank; tasks in flight keep it alive.
struct GroupState {
  MPI_Comm comm = MPI_COMM_NULL, here = MPI_COMM_NULL;  // all ranks; those of this node
  std::vector<int> world_ranks;
  std::unique_ptr<SharedMemory> memory;
  std::map<std::pair<int, int>, std::deque<const void*>> receiving;  // by (peer, tag); engine thread only
  std::shared_ptr<Arena> arena;                                      // null: no ranks of the group share memory
  std::shared_ptr<Crossing> crossing;                                // null: all of them do
  std::string refused;  // why ranks that could share memory do not; the same on all of them
};

// Of the first rank of comm that gave a reason, on all of them; empty if none did. Cut after 500 characters.
std::string first_reason(MPI_Comm comm, const std::string& mine) {
  int rank = 0, size = 0, first = 0;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  const int claim = mine.empty() ? size : rank;
  MPI_Allreduce(&claim, &first, 1, MPI_INT, MPI_MIN, comm);
  if (first == size) return "";
  char text[512] = {};
  std::copy_n(mine.begin(), std::min<size_t>(mine.size(), 500), text);
  MPI_Bcast(text, sizeof text, MPI_CHAR, first, comm);
  return text;
}

// A segment that rank 0 of comm creates and all ranks map, or null and a reason on every rank if any of them cannot.
// The name is random: /dev/shm may be shared by containers whose process numbers are the same.
std::unique_ptr<SharedMemory> share_memory(MPI_Comm comm, size_t bytes, std::string& refused) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  char name[64] = {};
  std::unique_ptr<SharedMemory> memory;
  const auto attempt = [&](auto make) {
    try {
      memory = make(name, bytes);
    } catch (const IoError& e) {  // slower through MPI, but correct
      refused = e.what();
    }
  };
  if (rank == 0) {
    std::random_device random;
    std::snprintf(name, sizeof name, "/tpo_dist.%ld.%08x%08x", static_cast<long>(getpid()), random(), random());
    attempt(SharedMemory::create);
  }
  MPI_Bcast(name, sizeof name, MPI_CHAR, 0, comm);
  if (rank != 0) attempt(SharedMemory::open);
  refused = first_reason(comm, refused);
  if (rank == 0) SharedMemory::unlink(name);
  if (!refused.empty()) memory.reset();
  return memory;
}

class MpiWire final : public Wire {
 public:
  explicit MpiWire(MPI_Comm comm) : comm_(comm) {}
  void send(const std::byte* data, int64_t bytes, int to, int tag) override {
    check_mpi(MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, to, tag, comm_, &next()), "MPI_Isend");
  }
  void recv(std::byte* data, int64_t bytes, int from, int tag) override {
    check_mpi(MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, from, tag, comm_, &next()), "MPI_Irecv");
  }
  void all_gather(const std::byte* mine, int64_t bytes, std::byte* all) override {
    const auto n = static_cast<int>(bytes);
    check_mpi(MPI_Iallgather(mine, n, MPI_BYTE, all, n, MPI_BYTE, comm_, &next()), "MPI_Iallgather");
  }
  bool done() override {
    int finished = 0;
    check_mpi(MPI_Testall(static_cast<int>(pending_.size()), pending_.data(), &finished, MPI_STATUSES_IGNORE),
              "a message between nodes");
    if (finished) pending_.clear();
    return finished != 0;
  }

 private:
  MPI_Request& next() { return pending_.emplace_back(MPI_REQUEST_NULL); }
  MPI_Comm comm_;
  std::vector<MPI_Request> pending_;
};

// A send or a recv: what it is, then its bytes, cut into messages of at most part_bytes, all with the same tag. Memory
// is given to MPI only for as many bytes as are known to come: Open MPI writes a message that is too long past its end.
class MpiMessage final : public EngineTask {
 public:
  MpiMessage(std::shared_ptr<GroupState> group, std::shared_ptr<const CommRequest> request, int64_t part_bytes)
      : group_(std::move(group)),
        request_(std::move(request)),
        r_(*request_),
        sends_(r_.op == CommOp::kSend),
        part_bytes_(part_bytes) {}
  ~MpiMessage() override {
    if (queued_) std::erase(queue(), this);
  }
  MpiMessage(const MpiMessage&) = delete;
  MpiMessage& operator=(const MpiMessage&) = delete;

  bool rings() const override { return false; }

  Progress poll() override {
    if (pending_.empty() && !start()) return Progress::kNone;
    int finished = 0;
    if (!met_) {
      check_mpi(MPI_Test(&pending_[0], &finished, MPI_STATUS_IGNORE), describe(r_));
      if (!finished) return Progress::kNone;
      met_ = true;
      if (!sends_) meet();
    }
    check_mpi(MPI_Testall(static_cast<int>(pending_.size()), pending_.data(), &finished, MPI_STATUSES_IGNORE),
              describe(r_));
    if (!finished) return Progress::kNone;
    check<CommError>(error_.empty(), error_);
    return Progress::kDone;
  }

 private:
  struct Header {
    int64_t count = 0, dtype = 0;
  };
  // Receives of one partner and tag: the next may look for its header when the data of the first is on its way.
  std::deque<const void*>& queue() { return group_->receiving[{r_.peer, r_.tag}]; }

  bool start() {
    if (sends_) {
      begun_s = steady_seconds();  // when the partner comes is not known here
      header_ = {r_.count, static_cast<int64_t>(r_.dtype)};
    } else {
      if (!queued_) queue().push_back(this);
      queued_ = true;
      if (queue().front() != this) return false;
    }
    move(reinterpret_cast<std::byte*>(&header_), sizeof header_);
    if (sends_) move(const_cast<std::byte*>(r_.in), r_.bytes());
    return true;
  }

  void move(std::byte* data, int64_t bytes) {
    for (int64_t begin = 0; begin < bytes; begin += part_bytes_) {
      const auto n = static_cast<int>(std::min(part_bytes_, bytes - begin));
      MPI_Request& request = pending_.emplace_back(MPI_REQUEST_NULL);
      check_mpi(sends_ ? MPI_Isend(data + begin, n, MPI_BYTE, r_.peer, r_.tag, group_->comm, &request)
                       : MPI_Irecv(data + begin, n, MPI_BYTE, r_.peer, r_.tag, group_->comm, &request),
                describe(r_));
    }
  }

  // What does not fit is received elsewhere, so that the next message finds its own.
  void meet() {
    begun_s = steady_seconds();
    const auto dtype = static_cast<DType>(header_.dtype);
    if (header_.count == r_.count && dtype == r_.dtype) {
      move(r_.out, r_.bytes());
    } else {
      error_ = cat("sizes differ: ", describe(r_), " meets a send of ", header_.count, " ", dtype);
      unwanted_.resize(static_cast<size_t>(header_.count) * size_of(dtype));
      move(unwanted_.data(), static_cast<int64_t>(unwanted_.size()));
    }
    queue().pop_front();
    queued_ = false;
  }

  std::shared_ptr<GroupState> group_;
  std::shared_ptr<const CommRequest> request_;
  const CommRequest& r_;
  bool sends_, queued_ = false, met_ = false;
  int64_t part_bytes_;
  Header header_;
  std::string error_;
  std::vector<std::byte> unwanted_;
  std::vector<MPI_Request> pending_;  // of the header and the parts
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

// The memory of this node's ranks. False on every rank of the group if any node has none.
bool join_arena(Context& context, GroupState& state, const Nodes& nodes) {
  MPI_Comm here = MPI_COMM_NULL;
  const int place = nodes.place(nodes.rank());
  check_mpi(MPI_Comm_split(state.comm, nodes.mine(), place, &here), "MPI_Comm_split");
  const auto ranks = static_cast<int>(nodes.here().size());
  const int64_t piece = Arena::piece_bytes(nodes);
  std::string refused;
  state.memory = share_memory(here, Arena::bytes_needed(ranks, piece), refused);
  state.here = here;
  state.refused = first_reason(state.comm, refused);
  if (!state.refused.empty()) return false;
  std::vector<Doorbell*> bells;
  for (const int r : nodes.here()) bells.push_back(&context.bell(state.world_ranks[static_cast<size_t>(r)]));
  state.arena = std::make_shared<Arena>(state.memory->data(), piece, place, std::move(bells));
  return true;
}

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
  if (size == 1) return state;
  // Without shared memory every rank is a node of its own.
  std::vector<int> node_of;
  for (const int r : state->world_ranks)
    node_of.push_back(context.options.arena ? context.node[static_cast<size_t>(r)] : r);
  Nodes nodes(node_of, rank);
  if (!nodes.alone() && !join_arena(context, *state, nodes)) nodes = Nodes(state->world_ranks, rank);
  if (nodes.count() == 1) return state;
  MPI_Comm wire = MPI_COMM_NULL;  // the group's own has the caller's messages
  check_mpi(MPI_Comm_dup(comm, &wire), "MPI_Comm_dup");
  state->crossing =
      std::make_shared<Crossing>(std::move(nodes), std::make_unique<MpiWire>(wire), context.options.verify);
  return state;
}

class MpiGroup final : public ProcessGroup {
 public:
  MpiGroup(std::shared_ptr<Context> context, std::shared_ptr<GroupState> state, int rank, std::string name)
      : ProcessGroup(rank, static_cast<int>(state->world_ranks.size()), std::move(name)),
        context_(std::move(context)),
        state_(std::move(state)),
        queue_(context_->engine->add_queue()) {
    watch(state_->world_ranks);
    tell(state_->refused);
  }

  std::string transport() const override {
    const std::string why = state_->refused.empty() ? "" : cat(": ", state_->refused);
    if (!state_->arena) return cat("MPI messages", why);
    return state_->crossing ? cat("shared memory on ", state_->crossing->nodes().count(), " nodes, MPI between")
                            : "shared memory";
  }

  std::vector<int> order_of_sums() const override {
    std::vector<int> node;
    if (!state_->crossing || state_->crossing->nodes().alone()) return node;
    for (int r = 0; r < size(); ++r) node.push_back(state_->crossing->nodes().node(r));
    return node;
  }

 protected:
  Tensor do_shared_buffer(const Shape& shape, DType dtype) override {
    constexpr size_t kPage = 4096;
    const size_t bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
    const size_t part = (bytes + kPage - 1) / kPage * kPage;
    std::shared_ptr<SharedMemory> memory;
    std::string refused;
    if (state_->arena && !state_->crossing && part > 0) {
      context_->engine->call([&] {
        memory = share_memory(state_->here, part * static_cast<size_t>(size()), refused);
        if (memory) state_->arena->add_shared(memory, part);
      });
      tell(refused);
    }
    if (!memory) return ProcessGroup::do_shared_buffer(shape, dtype);
    std::byte* mine = memory->data() + part * static_cast<size_t>(rank());
    Stream stream(Device::kCpu, std::make_shared<PartAllocator>(std::move(memory), mine, part));
    return Tensor::zeros(shape, dtype, stream);
  }

  std::shared_ptr<WorkState> issue(std::shared_ptr<const CommRequest> r) override {
    std::unique_ptr<EngineTask> task;
    if (!r->collective()) {
      task = std::make_unique<MpiMessage>(state_, r, context_->options.message_bytes);
    } else if (state_->arena) {
      // The task keeps all of the state: the arena's memory is part of it.
      task = Arena::make_task({state_, state_->arena.get()}, state_->crossing, r);
    } else {
      task = make_wire_task(state_->crossing, r);
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
  void tell(const std::string& refused) const {
    if (!refused.empty() && rank() == 0 && context_->options.on_fallback)
      context_->options.on_fallback(
          cat("group ", name(), " of ", size(), " ranks does without shared memory: ", refused));
  }

  std::shared_ptr<Context> context_;
  std::shared_ptr<GroupState> state_;
  int queue_;
};

}  // namespace

MpiWorld::MpiWorld(int* argc, char*** argv) : unwinding_(std::uncaught_exceptions()) {
  int provided = 0;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  check<CommError>(provided >= MPI_THREAD_SERIALIZED,
                   "this MPI library lets only the main thread call it; tpo_dist needs MPI_THREAD_SERIALIZED or more");
  threads_multiple_ = provided == MPI_THREAD_MULTIPLE;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  const Nodes nodes(mpi_nodes(), rank_);
  node_rank_ = nodes.place(rank_);
  node_size_ = static_cast<int>(nodes.here().size());
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
  int rank = 0;
  MPI_Comm_rank(world, &rank);
  auto context = std::make_shared<Context>();
  context->options = options;
  context->node = mpi_nodes();
  const Nodes nodes(context->node, rank);
  for (int r = 0; r < static_cast<int>(context->node.size()); ++r) context->local_rank.push_back(nodes.place(r));
  const size_t node_size = nodes.here().size();
  check_mpi(MPI_Comm_split(world, nodes.mine(), rank, &node), "MPI_Comm_split");
  std::string refused;
  if (options.arena && node_size > 1) {
    context->shared_bells = share_memory(node, sizeof(Doorbell) * node_size, refused);
  }
  refused = first_reason(world, refused);
  context->options.arena = options.arena && refused.empty();
  MPI_Comm_free(&node);
  context->engine = std::make_unique<Engine>(context->bell(rank));
  std::shared_ptr<GroupState> state;
  context->engine->call([&] { state = make_state(*context, world, rank); });
  if (!refused.empty()) state->refused = refused;
  if (state->world_ranks.size() == 1) return make_single("world");
  return std::make_unique<MpiGroup>(std::move(context), std::move(state), rank, "world");
}

}  // namespace tpo
