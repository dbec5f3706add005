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

// What one rank publishes. The counters only grow: numbers of pieces since the arena was made.
struct alignas(64) Arena::Control {
  std::atomic<uint64_t> in{0};       // pieces copied into the slot
  std::atomic<uint64_t> reduced{0};  // pieces whose share of this rank is in the result
  std::atomic<uint64_t> out{0};      // pieces this rank is done with
  WireHeader header[2];              // of the collective that owns a piece, by parity of its number
};

namespace {

// 1 MiB: two slots and a result of a few ranks stay in the last-level cache; larger pieces were not faster, below
// 256 KiB the wake-ups show. Many ranks share 64 MiB of slots.
int64_t piece_bytes_for(int ranks) {
  const int64_t fair = (int64_t{32} << 20) / ranks / 4096 * 4096;
  return std::clamp<int64_t>(fair, 64 << 10, int64_t{1} << 20);
}

constexpr size_t kControlStride = 512;

}  // namespace

size_t Arena::bytes_needed(int ranks) {
  const auto n = static_cast<size_t>(ranks);
  return n * kControlStride + 2 * (n + 1) * static_cast<size_t>(piece_bytes_for(ranks));
}

Arena::Arena(std::byte* memory, int rank, std::vector<Doorbell*> bells)
    : memory_(memory), rank_(rank), bells_(std::move(bells)), piece_bytes_(piece_bytes_for(size())) {
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
// free when every rank is done with piece p - 2.
class ArenaTask final : public EngineTask {
 public:
  ArenaTask(std::shared_ptr<Arena> arena, std::shared_ptr<const CommRequest> request)
      : arena_(std::move(arena)), a_(*arena_), request_(std::move(request)), r_(*request_) {
    width_ = static_cast<int64_t>(size_of(r_.dtype));
    piece_ = a_.piece_bytes_ / width_ / (r_.op == CommOp::kReduceScatter ? a_.size() : 1);
  }

  bool rings() const override { return true; }

  Progress poll() override {
    check<CommError>(a_.broken_.empty(), describe(r_), " cannot run: ", a_.broken_);
    if (!started_) start();
    bool moved = false;
    while (advance()) {
      moved = true;
      a_.ring_others();
    }
    // In place, the others read this rank's share until they have copied it.
    const bool left = out_ == end_ && (!in_place() || all_reached(&Arena::Control::out, end_));
    if (!left) return moved ? Progress::kSome : Progress::kNone;
    a_.next_piece_ = end_;
    return Progress::kDone;
  }

 private:
  void start() {
    started_ = true;
    first_ = in_ = reduced_ = out_ = a_.next_piece_;
    if (r_.op == CommOp::kAllReduce) place_ = a_.find_shared(r_.out, r_.bytes());
    if (in_place()) piece_ = std::max<int64_t>(1, r_.count);
    end_ = first_ + static_cast<uint64_t>(std::max<int64_t>(1, (r_.count + piece_ - 1) / piece_));
    if (r_.op != CommOp::kAllReduce) reduced_ = end_;
    WireHeader& header = a_.control(a_.rank_).header[r_.seq % 2];
    header = make_header(r_);
    header.place = place_.number;
  }
  bool in_place() const { return place_.number != 0; }

  // True if every rank's counter has reached n.
  bool all_reached(std::atomic<uint64_t> Arena::Control::*counter, uint64_t n) const {
    for (int r = 0; r < a_.size(); ++r) {
      if ((a_.control(r).*counter).load(std::memory_order_acquire) < n) return false;
    }
    return true;
  }

  // Does one stage of one piece if its inputs are there; the stage closest to completion first.
  bool advance() {
    Arena::Control& mine = a_.control(a_.rank_);
    const bool reducing = r_.op == CommOp::kAllReduce;
    if (out_ < in_ && (reducing ? out_ < reduced_ && all_reached(&Arena::Control::reduced, out_ + 1) : arrived(out_))) {
      copy_out(out_);
      mine.out.store(++out_, std::memory_order_release);
      return true;
    }
    if (reduced_ < in_ && arrived(reduced_)) {
      reduce_share(reduced_);
      mine.reduced.store(++reduced_, std::memory_order_release);
      return true;
    }
    if (in_ < end_ && (in_ < 2 || all_reached(&Arena::Control::out, in_ - 1))) {
      copy_in(in_);
      mine.in.store(++in_, std::memory_order_release);
      return true;
    }
    return false;
  }

  // Everybody's part of the piece is in the slots, and it is a piece of the same collective.
  bool arrived(uint64_t p) {
    if (!all_reached(&Arena::Control::in, p + 1)) return false;
    if (begun_s == 0) {
      begun_s = steady_seconds();
      for (int r = 0; r < a_.size(); ++r) {
        const WireHeader& theirs = a_.control(r).header[r_.seq % 2];
        std::string why = header_mismatch(r_, theirs, r);
        if (why.empty() && theirs.place != place_.number)
          why = cat(describe(r_), ": rank ", r,
                    " gave another part of a shared buffer, or none; all ranks must give the same");
        if (why.empty()) continue;
        a_.broken_ = why;
        throw CommError(why);
      }
    }
    return true;
  }

  int64_t offset(uint64_t p) const { return static_cast<int64_t>(p - first_) * piece_; }
  int64_t length(uint64_t p) const { return std::min(piece_, r_.count - offset(p)); }
  void move(std::byte* to, const std::byte* from, int64_t elements) const {
    if (elements > 0) std::memcpy(to, from, static_cast<size_t>(elements * width_));
  }

  void copy_in(uint64_t p) {
    if (in_place()) return;
    std::byte* slot = a_.slot(a_.rank_, p);
    const int64_t begin = offset(p), n = length(p);
    if (r_.op == CommOp::kReduceScatter) {
      for (int64_t j = 0; j < a_.size(); ++j)
        move(slot + j * piece_ * width_, r_.in + (j * r_.count + begin) * width_, n);
    } else if (r_.op != CommOp::kBarrier && (r_.op != CommOp::kBroadcast || r_.peer == a_.rank_)) {
      move(slot, r_.in + begin * width_, n);
    }
  }

  std::vector<const std::byte*> sources(uint64_t p, int64_t begin) const {
    std::vector<const std::byte*> s;
    for (int r = 0; r < a_.size(); ++r) s.push_back((in_place() ? buffer(r) : a_.slot(r, p)) + begin * width_);
    return s;
  }
  // The shared buffer of a rank.
  std::byte* buffer(int rank) const { return place_.of_rank0 + static_cast<size_t>(rank) * place_.stride; }

  // Where the share of a rank begins among n elements: at cache lines, so that no two ranks write one.
  int64_t cut(int64_t n, int64_t rank) const { return rank == a_.size() ? n : n * rank / a_.size() / 64 * 64; }

  void reduce_share(uint64_t p) {
    const int64_t begin = cut(length(p), a_.rank_), end = cut(length(p), a_.rank_ + 1);
    std::byte* result = in_place() ? buffer(a_.rank_) : a_.result(p);
    if (end > begin) reduce_buffers(result + begin * width_, sources(p, begin), end - begin, r_.dtype, r_.reduce);
  }

  void collect_shares(int64_t n) {
    for (int r = 0; r < a_.size(); ++r) {
      const int64_t begin = cut(n, r);
      if (r != a_.rank_) move(buffer(a_.rank_) + begin * width_, buffer(r) + begin * width_, cut(n, r + 1) - begin);
    }
  }

  void copy_out(uint64_t p) {
    const int64_t begin = offset(p), n = length(p);
    switch (r_.op) {
      case CommOp::kAllReduce:
        if (in_place()) {
          collect_shares(n);
        } else {
          move(r_.out + begin * width_, a_.result(p), n);
        }
        break;
      case CommOp::kBroadcast:
        if (r_.peer != a_.rank_) move(r_.out + begin * width_, a_.slot(r_.peer, p), n);
        break;
      case CommOp::kAllGather:
        for (int r = 0; r < a_.size(); ++r) move(r_.out + (r * r_.count + begin) * width_, a_.slot(r, p), n);
        break;
      case CommOp::kReduceScatter:
        if (n > 0) reduce_buffers(r_.out + begin * width_, sources(p, a_.rank_ * piece_), n, r_.dtype, r_.reduce);
        break;
      default:
        break;
    }
  }

  std::shared_ptr<Arena> arena_;
  Arena& a_;
  std::shared_ptr<const CommRequest> request_;
  const CommRequest& r_;
  int64_t width_ = 1, piece_ = 1;  // bytes of an element; elements of a piece (reduce_scatter: of each rank's part)
  bool started_ = false;
  Arena::Place place_;
  uint64_t first_ = 0, end_ = 0, in_ = 0, reduced_ = 0, out_ = 0;
};

std::unique_ptr<EngineTask> Arena::make_task(std::shared_ptr<Arena> arena, std::shared_ptr<const CommRequest> request) {
  return std::make_unique<ArenaTask>(std::move(arena), std::move(request));
}

}  // namespace tpo
