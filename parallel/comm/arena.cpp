#include "parallel/comm/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "parallel/comm/reduce.h"
#include "parallel/comm/wire_header.h"

namespace tpo {

std::unique_ptr<SharedMemory> SharedMemory::create(const std::string& name, size_t bytes) {
  const int fd = shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  check<IoError>(fd >= 0, "cannot create shared memory ", name, ": ", std::strerror(errno));
  // Allocating now turns a full /dev/shm into an error here instead of a SIGBUS later.
  const int rc = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  close(fd);
  if (rc != 0) unlink(name);
  check<IoError>(rc == 0, "cannot reserve ", bytes, " bytes of shared memory ", name, ": ", std::strerror(rc));
  return open(name, bytes);
}

std::unique_ptr<SharedMemory> SharedMemory::open(const std::string& name, size_t bytes) {
  const int fd = shm_open(name.c_str(), O_RDWR, 0600);
  check<IoError>(fd >= 0, "cannot open shared memory ", name, ": ", std::strerror(errno));
  // Populated at once: what a process holds is then known before the first step.
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  close(fd);
  check<IoError>(data != MAP_FAILED, "cannot map ", bytes, " bytes of shared memory ", name, ": ",
                 std::strerror(errno));
  return std::unique_ptr<SharedMemory>(new SharedMemory(data, bytes));
}

void SharedMemory::unlink(const std::string& name) noexcept { shm_unlink(name.c_str()); }

SharedMemory::~SharedMemory() { munmap(data_, bytes_); }

namespace {

// What is done with a piece, in this order; a collective skips some.
enum Stage : size_t { kIn, kReduce, kCross, kOut, kStages };

// Within a node 1 MiB: two slots and a result of a few ranks stay in the last-level cache; larger pieces were not
// faster, below 256 KiB the wake-ups show. Between nodes every rank sends a share of the piece to every node, so it is
// larger. Many ranks share 64 MiB of slots.
constexpr int64_t kPieceBytes = int64_t{1} << 20, kCrossingPieceBytes = int64_t{4} << 20;
// After this much an operation in place lets other groups of the rank go on.
constexpr int64_t kTurnBytes = int64_t{4} << 20;

constexpr size_t kControlStride = 512;

}  // namespace

// What one rank publishes. The counters only grow since the arena was made.
struct alignas(64) Arena::Control {
  std::atomic<uint64_t> begun{0};         // collectives whose header is there
  std::atomic<uint64_t> done[kStages]{};  // pieces that are through a stage
  WireHeader header[2];                   // by parity of the number of the collective
};

int64_t Arena::piece_bytes(const Nodes& nodes) {
  size_t ranks = 1;  // of the largest node
  for (int i = 0; i < nodes.count(); ++i) ranks = std::max(ranks, nodes.members(i).size());
  return piece_bytes(static_cast<int64_t>(ranks), nodes.count() > 1);
}

int64_t Arena::piece_bytes(int64_t ranks_of_largest_node, bool several_nodes) {
  const int64_t fair = (int64_t{32} << 20) / ranks_of_largest_node / 4096 * 4096;
  return std::clamp<int64_t>(fair, 64 << 10, several_nodes ? kCrossingPieceBytes : kPieceBytes);
}

size_t Arena::bytes_needed(int ranks, int64_t piece_bytes) {
  const auto n = static_cast<size_t>(ranks);
  return n * kControlStride + 2 * (n + 1) * static_cast<size_t>(piece_bytes);
}

Arena::Arena(std::byte* memory, int64_t piece_bytes, int rank, std::vector<Doorbell*> bells)
    : memory_(memory), rank_(rank), bells_(std::move(bells)), piece_bytes_(piece_bytes) {
  static_assert(sizeof(Control) <= kControlStride && std::atomic<uint64_t>::is_always_lock_free);
}

Arena::Control& Arena::control(int rank) const {
  return *reinterpret_cast<Control*>(memory_ + static_cast<size_t>(rank) * kControlStride);
}

std::byte* Arena::slot(int rank, uint64_t piece) const {
  return memory_ + static_cast<size_t>(size()) * kControlStride +
         (2 * static_cast<size_t>(rank) + piece % 2) * static_cast<size_t>(piece_bytes_);
}

std::byte* Arena::result(uint64_t piece) const { return slot(size(), piece); }

void Arena::add_shared(const std::shared_ptr<SharedMemory>& memory, size_t part_bytes) {
  shared_.push_back({memory, part_bytes, next_shared_++});
}

Arena::Place Arena::find_shared(const std::byte* p, int64_t bytes) {
  std::erase_if(shared_, [](const Shared& s) { return s.memory.expired(); });
  for (const Shared& s : shared_) {
    const auto memory = s.memory.lock();
    if (!memory) continue;
    const std::byte* part = memory->data() + static_cast<size_t>(rank_) * s.part_bytes;
    if (p < part || p + bytes > part + s.part_bytes) continue;
    const auto offset = static_cast<size_t>(p - part);
    constexpr int kOffsetBits = 40;  // parts below 1 TiB
    return {s.number << kOffsetBits | offset, memory->data() + offset, s.part_bytes};
  }
  return {};
}

void Arena::ring_others() const {
  for (int r = 0; r < size(); ++r) {
    if (r != rank_) bells_[static_cast<size_t>(r)]->ring();
  }
}

// One collective of one rank. Pieces are numbered through the life of the arena; piece p uses buffer p % 2, which is
// free when every rank of the node is done with piece p - 2.
class ArenaTask final : public EngineTask {
 public:
  ArenaTask(std::shared_ptr<Arena> arena, std::shared_ptr<Crossing> crossing,
            std::shared_ptr<const CommRequest> request)
      : arena_(std::move(arena)),
        a_(*arena_),
        crossing_(std::move(crossing)),
        request_(std::move(request)),
        r_(*request_),
        width_(static_cast<int64_t>(size_of(r_.dtype))),
        parts_(r_.op == CommOp::kReduceScatter || r_.op == CommOp::kAllGather) {}

  bool rings() const override { return !crossing_ || !crossing_->busy(); }

  // After an exception half of a collective is under way, so that none can follow.
  Progress poll() override {
    check<CommError>(a_.broken_.empty(), describe(r_), " cannot run: ", a_.broken_);
    try {
      return go_on();
    } catch (const std::exception& e) {
      a_.broken_ = e.what();
      throw;
    }
  }

 private:
  Progress go_on() {
    bool moved = false;
    if (!started_) start(), moved = true;
    while (advance()) {
      moved = true;
      if (direct_ && count_[kOut] < end_) break;
    }
    // In place, the others work on this rank's buffer until they are done.
    if (count_[kOut] < end_ || !chosen_ || (direct_ && !all_reached(kOut, end_)))
      return moved ? Progress::kSome : Progress::kNone;
    a_.next_piece_ = end_;
    if (direct_) ++a_.in_place_;
    return Progress::kDone;
  }

  void start() {
    started_ = true;
    place_ = own_place();
    Arena::Control& mine = a_.control(a_.rank_);
    WireHeader& header = mine.header[a_.collectives_ % 2];
    header = make_header(r_);
    header.place = place_.number;
    mine.begun.store(++a_.collectives_, std::memory_order_release);
    a_.ring_others();
    if (place_.number == 0) choose(false);  // no need to wait for the others to know that
  }

  // The place of what the ranks would work on directly.
  Arena::Place own_place() {
    if (crossing_) return {};
    switch (r_.op) {
      case CommOp::kReduceScatter:
        return a_.find_shared(r_.in, r_.bytes() * r_.size);
      case CommOp::kAllGather:
        return r_.in == r_.out + r_.rank * r_.bytes() ? a_.find_shared(r_.out, r_.bytes() * r_.size) : Arena::Place{};
      case CommOp::kAllReduce:
      case CommOp::kBroadcast:
        return a_.find_shared(r_.out, r_.bytes());
      default:
        return {};
    }
  }

  // Fixes what happens to pieces of which size.
  void choose(bool direct) {
    chosen_ = true;
    direct_ = direct;
    const bool reduces = r_.op == CommOp::kAllReduce || (r_.op == CommOp::kReduceScatter && crossing_);
    used_[kIn] = !direct, used_[kReduce] = reduces && !direct, used_[kCross] = crossing_ != nullptr, used_[kOut] = true;
    piece_ = direct ? std::max<int64_t>(1, r_.count)
                    : std::max<int64_t>(1, a_.piece_bytes_ / width_ / (parts_ ? r_.size : 1));
    first_ = a_.next_piece_;
    end_ = first_ + static_cast<uint64_t>(std::max<int64_t>(1, (r_.count + piece_ - 1) / piece_));
    for (uint64_t& c : count_) c = first_;
  }

  // True once it is known that all ranks are in the same collective.
  bool meet() {
    if (crossing_ && crossing_->verifies()) {
      if (!crossing_->compare(r_)) return false;
    } else {
      for (int r = 0; r < a_.size(); ++r) {
        if (a_.control(r).begun.load(std::memory_order_acquire) < a_.collectives_) return false;
      }
      for (int r = 0; r < a_.size(); ++r) {
        const int theirs = crossing_ ? crossing_->nodes().here()[static_cast<size_t>(r)] : r;
        const std::string why = header_mismatch(r_, header(r), theirs);
        check<CommError>(why.empty(), why);
      }
    }
    begun_s = steady_seconds();
    bool same = place_.number != 0;
    for (int r = 0; r < a_.size() && same; ++r) same = header(r).place == place_.number;
    if (!chosen_) choose(same);
    return true;
  }
  const WireHeader& header(int rank) const { return a_.control(rank).header[(a_.collectives_ - 1) % 2]; }

  // True if every rank of the node has n pieces through the stage.
  bool all_reached(size_t stage, uint64_t n) const {
    for (int r = 0; r < a_.size(); ++r) {
      if (a_.control(r).done[stage].load(std::memory_order_acquire) < n) return false;
    }
    return true;
  }

  bool inputs_ready(size_t stage, uint64_t p) const {
    while (stage-- > 0) {
      if (used_[stage]) return all_reached(stage, p + 1);
    }
    return true;
  }

  // One stage of one piece, if its inputs are there; the stage closest to completion first.
  bool advance() {
    met_ = met_ || meet();
    for (size_t stage = kStages; met_ && stage-- > kReduce;) {
      const uint64_t p = count_[stage];
      if (!used_[stage] || p == end_ || !inputs_ready(stage, p)) continue;
      if (stage == kReduce) reduce_share(p);
      if (stage == kCross && !cross(p)) continue;
      if (stage == kOut && direct_ && !work_in_place()) return true;
      if (stage == kOut && !direct_) copy_out(p);
      return publish(stage);
    }
    const uint64_t p = count_[kIn];
    if (!chosen_ || !used_[kIn] || p == end_ || (p >= 2 && !all_reached(kOut, p - 1))) return false;
    copy_in(p);
    return publish(kIn);
  }

  bool publish(size_t stage) {
    a_.control(a_.rank_).done[stage].store(++count_[stage], std::memory_order_release);
    a_.ring_others();
    return true;
  }

  int64_t offset(uint64_t p) const { return static_cast<int64_t>(p - first_) * piece_; }
  int64_t length(uint64_t p) const { return std::min(piece_, r_.count - offset(p)); }
  void move(std::byte* to, const std::byte* from, int64_t elements) const {
    if (elements > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(elements * width_));
  }

  // To where the node's ranks read it: a slot if it is to be reduced.
  void copy_in(uint64_t p) {
    std::byte* slot = a_.slot(a_.rank_, p);
    const int64_t begin = offset(p), n = length(p);
    if (r_.op == CommOp::kReduceScatter) {
      for (int64_t j = 0; j < r_.size; ++j) move(slot + j * n * width_, r_.in + (j * r_.count + begin) * width_, n);
    } else if (r_.op == CommOp::kAllReduce) {
      move(slot, r_.in + begin * width_, n);
    } else if (r_.op == CommOp::kAllGather) {
      move(a_.result(p) + r_.rank * n * width_, r_.in + begin * width_, n);
    } else if (r_.op == CommOp::kBroadcast && r_.peer == r_.rank) {
      move(a_.result(p), r_.in + begin * width_, n);
    }
  }

  std::vector<const std::byte*> slots(uint64_t p, int64_t begin) const {
    std::vector<const std::byte*> s;
    for (int r = 0; r < a_.size(); ++r) s.push_back(a_.slot(r, p) + begin * width_);
    return s;
  }

  void reduce_share(uint64_t p) {
    const int64_t n = length(p) * (parts_ ? r_.size : 1);
    const int64_t begin = share_begin(n, a_.rank_, a_.size()), end = share_begin(n, a_.rank_ + 1, a_.size());
    if (end > begin) reduce_buffers(a_.result(p) + begin * width_, slots(p, begin), end - begin, r_.dtype, r_.reduce);
  }

  bool cross(uint64_t p) {
    if (exchange_.share.empty())
      exchange_ = crossing_->cut(r_, a_.result(p), length(p), length(p), r_.out + offset(p) * width_);
    if (!crossing_->advance(r_, exchange_)) return false;
    exchange_ = {};
    return true;
  }

  void copy_out(uint64_t p) {
    const int64_t begin = offset(p), n = length(p);
    std::byte* out = r_.out + begin * width_;
    if (r_.op == CommOp::kAllReduce || (r_.op == CommOp::kBroadcast && r_.peer != r_.rank)) {
      move(out, a_.result(p), n);
    } else if (r_.op == CommOp::kAllGather) {
      for (int64_t r = 0; r < r_.size; ++r) move(out + r * r_.bytes(), a_.result(p) + r * n * width_, n);
    } else if (r_.op == CommOp::kReduceScatter && !crossing_ && n > 0) {
      reduce_buffers(out, slots(p, r_.rank * n), n, r_.dtype, r_.reduce);
    }
  }

  // On the shared buffers of all ranks, some of it per call. True when all of it is done.
  bool work_in_place() {
    const bool all_reduce = r_.op == CommOp::kAllReduce;
    const int64_t begin = all_reduce ? share_begin(r_.count, r_.rank, r_.size) : 0;
    const int64_t end = all_reduce ? share_begin(r_.count, r_.rank + 1, r_.size) : r_.count;
    const int64_t at = begin + worked_, n = std::min(end - at, kTurnBytes / width_);
    worked_ += std::max<int64_t>(0, n);
    if (n > 0) work_in_place(at, n);
    return begin + worked_ == end;
  }

  void work_in_place(int64_t at, int64_t n) {
    const auto part = [&](int64_t rank) { return (rank * r_.count + at) * width_; };
    std::vector<std::byte*> buffers;  // of all ranks, where this one works
    for (int r = 0; r < r_.size; ++r) {
      std::byte* whole = place_.of_rank0 + static_cast<size_t>(r) * place_.stride;
      buffers.push_back(whole + (r_.op == CommOp::kReduceScatter ? part(r_.rank) : parts_ ? part(r) : at * width_));
    }
    const std::vector<const std::byte*> sources(buffers.begin(), buffers.end());
    if (r_.op == CommOp::kAllReduce) return reduce_buffers(buffers, sources, n, r_.dtype, r_.reduce);
    if (r_.op == CommOp::kReduceScatter) return reduce_buffers(r_.out + at * width_, sources, n, r_.dtype, r_.reduce);
    if (r_.op == CommOp::kBroadcast) return move(r_.out + at * width_, sources[static_cast<size_t>(r_.peer)], n);
    for (int r = 0; r < r_.size; ++r) move(r_.out + part(r), sources[static_cast<size_t>(r)], n);
  }

  std::shared_ptr<Arena> arena_;
  Arena& a_;
  std::shared_ptr<Crossing> crossing_;
  std::shared_ptr<const CommRequest> request_;
  const CommRequest& r_;
  int64_t width_;
  bool parts_;  // every rank has a part of its own
  bool started_ = false, met_ = false, chosen_ = false, direct_ = false;
  Arena::Place place_;
  bool used_[kStages] = {};
  uint64_t first_ = 0, end_ = 0, count_[kStages] = {};
  int64_t piece_ = 1;   // elements; with parts: of each
  int64_t worked_ = 0;  // elements done in place
  Exchange exchange_;   // of the piece that is between nodes
};

std::unique_ptr<EngineTask> Arena::make_task(std::shared_ptr<Arena> arena, std::shared_ptr<Crossing> crossing,
                                             std::shared_ptr<const CommRequest> request) {
  return std::make_unique<ArenaTask>(std::move(arena), std::move(crossing), std::move(request));
}

}  // namespace tpo
