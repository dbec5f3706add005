#include "core/allocator.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef TPO_ASAN
#include <sanitizer/asan_interface.h>
#endif

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "core/heap.h"

namespace tpo {

size_t Allocator::size_class(size_t bytes) {
  if (bytes <= 4096) return bytes == 0 ? 256 : (bytes + 255) / 256 * 256;
  const size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

namespace {

// The address sanitizer sees single blocks only through these: all that is held but not handed out is forbidden.
void forbid([[maybe_unused]] void* p, [[maybe_unused]] size_t bytes) {
#ifdef TPO_ASAN
  ASAN_POISON_MEMORY_REGION(p, bytes);
#endif
}
void permit([[maybe_unused]] void* p, [[maybe_unused]] size_t bytes) {
#ifdef TPO_ASAN
  ASAN_UNPOISON_MEMORY_REGION(p, bytes);
#endif
}

// Where memory comes from: the host, or nowhere.
class System {
 public:
  virtual ~System() = default;
  virtual void* take(size_t size) = 0;  // 64-byte aligned, null if there is none
  virtual void give(void* p, size_t size) = 0;
  // Makes the offsets [from, to) usable, which continue the last range; false if there is no room behind it.
  virtual bool grow(int64_t from, int64_t to) = 0;
  // The same in a range of its own; what was not usable of the last one is given up.
  virtual bool add_range(int64_t from, int64_t to) = 0;
  virtual std::byte* at(int64_t offset) const = 0;
  virtual int64_t offset_of(const std::byte* p) const = 0;
};

// A range is reserved without access, which costs addresses only, and opened as it grows.
class HostSystem final : public System {
 public:
  ~HostSystem() override {
    for (const Range& r : ranges_) {
      permit(r.p, static_cast<size_t>(r.opened));
      unmap(r.p, r.size);
    }
  }
  void* take(size_t size) override {
    void* p = std::aligned_alloc(64, size);
    if (p != nullptr) forbid(p, size);
    return p;
  }
  void give(void* p, size_t size) override {
    permit(p, size);
    std::free(p);
  }
  bool grow(int64_t from, int64_t to) override {
    if (ranges_.empty() && !reserve(from, to - from)) return false;
    Range& r = ranges_.back();
    if (to > r.begin + r.size) return false;
    std::byte* p = r.p + (from - r.begin);
    if (mprotect(p, static_cast<size_t>(to - from), PROT_READ | PROT_WRITE) != 0) return false;
    forbid(p, static_cast<size_t>(to - from));
    r.opened = to - r.begin;
    return true;
  }
  bool add_range(int64_t from, int64_t to) override {
    if (ranges_.empty() || to > machine_bytes()) return false;
    Range& last = ranges_.back();
    unmap(last.p + last.opened, last.size - last.opened);
    last.size = last.opened;
    if (last.size == 0) ranges_.pop_back();
    if (!reserve(from, to - from)) return false;
    if (grow(from, to)) return true;
    unmap(ranges_.back().p, ranges_.back().size);
    ranges_.pop_back();
    return false;
  }
  std::byte* at(int64_t offset) const override {
    auto r = ranges_.rbegin();
    while (offset < r->begin) ++r;
    return r->p + (offset - r->begin);
  }
  int64_t offset_of(const std::byte* p) const override {
    auto r = ranges_.rbegin();
    while (std::less<>()(p, r->p) || !std::less<>()(p, r->p + r->size)) ++r;
    return r->begin + (p - r->p);
  }

 private:
  struct Range {
    std::byte* p;
    int64_t begin, size;  // as offsets
    int64_t opened = 0;   // usable bytes
  };

  static int64_t machine_bytes() { return sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE); }
  static void unmap(std::byte* p, int64_t size) {
    if (size > 0) munmap(p, static_cast<size_t>(size));
  }
  // As much as the machine has. Where addresses are limited, half of what is left of them: the other half is for
  // malloc, stacks and further ranges.
  static int64_t wanted_bytes() {
    int64_t bytes = machine_bytes();
#ifdef TPO_TSAN
    bytes = std::min(bytes, int64_t{64} << 30);  // its shadow leaves few addresses
#endif
    rlimit limit{};
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return bytes;
    int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const int64_t left = static_cast<int64_t>(limit.rlim_cur) - pages * sysconf(_SC_PAGESIZE);
    return std::min(bytes, left / 2 / Heap::kGrain * Heap::kGrain);
  }
  bool reserve(int64_t from, int64_t least) {
    for (const int64_t size : {std::max(wanted_bytes(), least), least}) {
      void* p = mmap(nullptr, static_cast<size_t>(size), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (p == MAP_FAILED) continue;
      ranges_.push_back({static_cast<std::byte*>(p), from, size, 0});
      return true;
    }
    return false;
  }

  std::vector<Range> ranges_;  // by offset; one, unless addresses are limited
};

// Addresses in the non-canonical hole of x86-64: touching one faults.
class MetaSystem final : public System {
 public:
  void* take(size_t size) override { return reinterpret_cast<void*>(next_ += size); }
  void give(void*, size_t) override {}
  bool grow(int64_t, int64_t) override { return true; }
  bool add_range(int64_t, int64_t) override { return false; }
  std::byte* at(int64_t offset) const override { return reinterpret_cast<std::byte*>(kRange + offset); }
  int64_t offset_of(const std::byte* p) const override { return reinterpret_cast<int64_t>(p) - kRange; }

 private:
  static constexpr int64_t kRange = 0x1000'0000'0000'0000;
  uint64_t next_ = 0x2000'0000'0000'0000ull;
};

// What is live, by kind and phase.
class Counter {
 public:
  // True if this made a new peak of the phase.
  bool add(int64_t bytes, MemoryKind kind) {
    const auto k = static_cast<size_t>(kind);
    live_[k] += bytes;
    if (live_[k] > peak_[k]) peak_[k] = live_[k];
    total_ += bytes;
    return mark();
  }
  void remove(int64_t bytes, MemoryKind kind) {
    live_[static_cast<size_t>(kind)] -= bytes;
    total_ -= bytes;
  }
  void begin_phase(const char* name) {
    phase_ = 0;
    while (phase_ < phases_.size() && std::strcmp(phases_[phase_].name, name) != 0) ++phase_;
    if (phase_ == phases_.size()) phases_.push_back({name});
    mark();
  }
  void name_peak(const char* kernel) { phases_[phase_].kernel = kernel; }
  void reset() {
    phases_ = {{phases_[phase_].name}};
    phase_ = 0;
    peak_ = live_;
    mark();
  }
  int64_t live() const { return total_; }
  int64_t peak() const {
    int64_t most = 0;
    for (const Phase& p : phases_) most = std::max(most, p.bytes);
    return most;
  }
  MemoryUse use() const {
    MemoryUse u{live_, peak_, {}};
    for (const Phase& p : phases_) u.phases.push_back({p.name, p.kernel, p.bytes, p.by_kind});
    return u;
  }

 private:
  struct Phase {
    const char* name;
    const char* kernel = "";
    int64_t bytes = 0;
    BytesByKind by_kind{};
  };
  bool mark() {
    Phase& p = phases_[phase_];
    if (total_ <= p.bytes) return false;
    p.bytes = total_, p.by_kind = live_, p.kernel = "";
    return true;
  }
  std::vector<Phase> phases_{{"start"}};
  size_t phase_ = 0;
  BytesByKind live_{}, peak_{};
  int64_t total_ = 0;
};

class CachingAllocator final : public Allocator {
 public:
  CachingAllocator(Device device, std::unique_ptr<System> system) : device_(device), system_(std::move(system)) {}
  ~CachingAllocator() override {
    for (auto& [size, blocks] : cache_)
      for (void* p : blocks) system_->give(p, size);
  }

  void* allocate(size_t bytes, MemoryKind kind) override {
    const size_t size = size_class(bytes);
    const std::lock_guard lock(mutex_);
    void* p = size > kSmall ? take_large(static_cast<int64_t>(size)) : take_small(size);
    check<DeviceError>(p != nullptr, "out of host memory: ", size, " bytes asked, ", counter_.live(), " live, ",
                       small_cached_ + heap_.free_bytes(), " cached");
    if (device_ == Device::kCpu) permit(p, bytes);
    ++stats_.allocations;
    stats_.held_peak_bytes = std::max(stats_.held_peak_bytes, small_held_ + heap_.top());
    if (counter_.add(static_cast<int64_t>(size), kind)) unnamed_peak_.store(true, std::memory_order_relaxed);
    return p;
  }

  void free(void* p, size_t bytes, MemoryKind kind) override {
    const size_t size = size_class(bytes);
    const std::lock_guard lock(mutex_);
    counter_.remove(static_cast<int64_t>(size), kind);
    if (device_ == Device::kCpu) forbid(p, size);
    if (size > kSmall) {
      heap_.give(system_->offset_of(static_cast<std::byte*>(p)));
    } else {
      give_small(p, size);
    }
  }

  AllocatorStats stats() const override {
    const std::lock_guard lock(mutex_);
    AllocatorStats s = stats_;
    s.live_bytes = counter_.live(), s.peak_bytes = counter_.peak();
    s.cached_bytes = small_cached_ + heap_.free_bytes();
    return s;
  }
  void reset_peak() override {
    const std::lock_guard lock(mutex_);
    counter_.reset();
    unnamed_peak_.store(false, std::memory_order_relaxed);  // what is live now was there when the count began
  }
  MemoryUse memory() const override {
    const std::lock_guard lock(mutex_);
    return counter_.use();
  }
  void begin_phase(const char* name) override {
    const std::lock_guard lock(mutex_);
    counter_.begin_phase(name);
    unnamed_peak_.store(false, std::memory_order_relaxed);
  }
  Device device() const override { return device_; }

 protected:
  void name_peak(const char* kernel) override {
    const std::lock_guard lock(mutex_);
    counter_.name_peak(kernel);
    unnamed_peak_.store(false, std::memory_order_relaxed);
  }

 private:
  static constexpr size_t kSmall = size_t{64} << 10;  // from here on classes are multiples of Heap::kGrain

  void* take_large(int64_t size) {
    int64_t at = heap_.take(size);
    if (at < 0) {
      int64_t top = heap_.top_for(size);
      ++stats_.system_requests;
      if (!system_->grow(heap_.top(), top)) {
        const int64_t begin = heap_.top() + Heap::kGrain;
        top = begin + size;
        if (!system_->add_range(begin, top)) return nullptr;
        heap_.fence();
      }
      heap_.extend(top);
      at = heap_.take(size);
    }
    return system_->at(at);
  }

  void* take_small(size_t size) {
    if (void* p = take_cached(size)) return p;
    trim();
    ++stats_.system_requests;
    void* p = system_->take(size);
    if (p != nullptr) small_held_ += static_cast<int64_t>(size);
    return p;
  }
  // A cached block of this class, or of one up to half as large again.
  void* take_cached(size_t size) {
    for (auto it = cache_.lower_bound(size); it != cache_.end() && it->first <= size + size / 2; ++it) {
      if (it->second.empty()) continue;
      void* p = it->second.back();
      it->second.pop_back();
      small_cached_ -= static_cast<int64_t>(it->first);
      if (it->first != size) larger_[p] = it->first;
      return p;
    }
    return nullptr;
  }
  void give_small(void* p, size_t size) {
    if (const auto it = larger_.find(p); it != larger_.end()) {
      size = it->second;
      larger_.erase(it);
    }
    small_cached_ += static_cast<int64_t>(size);
    cache_[size].push_back(p);
  }
  // Small blocks that no present shape fits must not pile up: largest first while too many are cached.
  void trim() {
    constexpr int64_t kKeep = 32 << 20;
    for (auto it = cache_.rbegin(); it != cache_.rend() && small_cached_ > kKeep; ++it) {
      for (auto& blocks = it->second; !blocks.empty() && small_cached_ > kKeep; blocks.pop_back()) {
        system_->give(blocks.back(), it->first);
        small_cached_ -= static_cast<int64_t>(it->first), small_held_ -= static_cast<int64_t>(it->first);
      }
    }
  }

  Device device_;
  std::unique_ptr<System> system_;
  mutable std::mutex mutex_;
  Counter counter_;
  AllocatorStats stats_;  // but for what the members know
  Heap heap_;
  std::map<size_t, std::vector<void*>> cache_;  // small blocks by real size
  std::unordered_map<void*, size_t> larger_;    // small blocks in use that are larger than their class
  int64_t small_cached_ = 0, small_held_ = 0;
};

}  // namespace

std::shared_ptr<Allocator> make_cpu_allocator() {
  return std::make_shared<CachingAllocator>(Device::kCpu, std::make_unique<HostSystem>());
}
std::shared_ptr<Allocator> make_meta_allocator() {
  return std::make_shared<CachingAllocator>(Device::kMeta, std::make_unique<MetaSystem>());
}

}  // namespace tpo
