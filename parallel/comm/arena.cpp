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
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
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
    if (out_ < end_) return moved ? Progress::kSome : Progress::kNone;
    a_.next_piece_ = end_;
    return Progress::kDone;
  }

 private:
  void start() {
    started_ = true;
    first_ = in_ = reduced_ = out_ = a_.next_piece_;
    end_ = first_ + static_cast<uint64_t>(std::max<int64_t>(1, (r_.count + piece_ - 1) / piece_));
    if (r_.op != CommOp::kAllReduce) reduced_ = end_;
    a_.control(a_.rank_).header[r_.seq % 2] = make_header(r_);
  }

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
        const std::string why = header_mismatch(r_, a_.control(r).header[r_.seq % 2], r);
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
    for (int r = 0; r < a_.size(); ++r) s.push_back(a_.slot(r, p) + begin * width_);
    return s;
  }

  void reduce_share(uint64_t p) {
    // Shares begin at cache lines, so that no two ranks write one.
    const int64_t n = length(p), ranks = a_.size();
    const auto cut = [&](int64_t r) { return r == ranks ? n : n * r / ranks / 64 * 64; };
    const int64_t begin = cut(a_.rank_), end = cut(a_.rank_ + 1);
    if (end > begin) reduce_buffers(a_.result(p) + begin * width_, sources(p, begin), end - begin, r_.dtype, r_.reduce);
  }

  void copy_out(uint64_t p) {
    const int64_t begin = offset(p), n = length(p);
    switch (r_.op) {
      case CommOp::kAllReduce:
        move(r_.out + begin * width_, a_.result(p), n);
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
  uint64_t first_ = 0, end_ = 0, in_ = 0, reduced_ = 0, out_ = 0;
};

std::unique_ptr<EngineTask> Arena::make_task(std::shared_ptr<Arena> arena, std::shared_ptr<const CommRequest> request) {
  return std::make_unique<ArenaTask>(std::move(arena), std::move(request));
}

}  // namespace tpo
