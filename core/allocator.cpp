#include "core/allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/error.h"

namespace tpo {

size_t Allocator::size_class(size_t bytes) {
  if (bytes <= 4096) return bytes == 0 ? 256 : (bytes + 255) / 256 * 256;
  const size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

namespace {

// Statistics shared by both allocators, so that meta and cpu count alike by construction.
class Counter {
 public:
  void add(int64_t bytes) {
    stats_.live_bytes += bytes;
    ++stats_.allocations;
    if (stats_.live_bytes > stats_.peak_bytes) stats_.peak_bytes = stats_.live_bytes;
  }
  void remove(int64_t bytes) { stats_.live_bytes -= bytes; }
  AllocatorStats& stats() { return stats_; }
  const AllocatorStats& stats() const { return stats_; }
  void reset_peak() { stats_.peak_bytes = stats_.live_bytes; }

 private:
  AllocatorStats stats_;
};

class CpuAllocator final : public Allocator {
 public:
  ~CpuAllocator() override {
    for (auto& [size, blocks] : cache_)
      for (void* p : blocks) system_give(p, size);
  }

  void* allocate(size_t bytes) override {
    const size_t size = size_class(bytes);
    const std::lock_guard lock(mutex_);
    void* p = take_cached(size);
    if (p == nullptr) {
      trim(size);
      p = system_allocate(size);
      held_ += static_cast<int64_t>(size);
    }
    counter_.add(static_cast<int64_t>(size));
    counter_.stats().held_peak_bytes = std::max(counter_.stats().held_peak_bytes, held_);
    return p;
  }

  void free(void* p, size_t bytes) override {
    const size_t size = size_class(bytes);
    const std::lock_guard lock(mutex_);
    counter_.remove(static_cast<int64_t>(size));
    size_t real = size;
    if (const auto it = larger_.find(p); it != larger_.end()) {
      real = it->second;
      larger_.erase(it);
    }
    counter_.stats().cached_bytes += static_cast<int64_t>(real);
    cache_[real].push_back(p);
  }

  AllocatorStats stats() const override {
    const std::lock_guard lock(mutex_);
    return counter_.stats();
  }
  void reset_peak() override {
    const std::lock_guard lock(mutex_);
    counter_.reset_peak();
  }
  Device device() const override { return Device::kCpu; }

 private:
  // A cached block of this class, or of one up to half as large again: packed sequences differ from step to step, and
  // exact classes alone would keep a block of each length ever seen.
  void* take_cached(size_t size) {
    for (auto it = cache_.lower_bound(size); it != cache_.end() && it->first <= size + size / 2; ++it) {
      if (it->second.empty()) continue;
      void* p = it->second.back();
      it->second.pop_back();
      counter_.stats().cached_bytes -= static_cast<int64_t>(it->first);
      if (it->first != size) larger_[p] = it->first;
      return p;
    }
    return nullptr;
  }

  // Gives cached blocks back, largest first, while the cache would stay above a quarter of what is in use: blocks that
  // no present shape fits must not pile up. Small caches are left alone.
  void trim(size_t wanted) {
    constexpr int64_t kKeep = 32 << 20;
    const int64_t limit = std::max(kKeep, (counter_.stats().live_bytes + static_cast<int64_t>(wanted)) / 4);
    for (auto it = cache_.rbegin(); it != cache_.rend() && counter_.stats().cached_bytes > limit; ++it)
      while (!it->second.empty() && counter_.stats().cached_bytes > limit) release(it->first, it->second);
  }
  void release(size_t size, std::vector<void*>& blocks) {
    system_give(blocks.back(), size);
    blocks.pop_back();
    counter_.stats().cached_bytes -= static_cast<int64_t>(size);
    held_ -= static_cast<int64_t>(size);
  }

  // Large blocks come as pages of their own, so that giving one back really returns it; 64 bytes is what vector loads
  // want of the others.
  static constexpr size_t kPages = size_t{1} << 20;
  static void* system_take(size_t size) {
    if (size < kPages) return std::aligned_alloc(64, size);
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? nullptr : p;
  }
  static void system_give(void* p, size_t size) { size < kPages ? std::free(p) : static_cast<void>(munmap(p, size)); }

  void* system_allocate(size_t size) {
    void* p = system_take(size);
    if (p == nullptr) {
      for (auto& [cached, blocks] : cache_)
        while (!blocks.empty()) release(cached, blocks);
      p = system_take(size);
    }
    check<DeviceError>(p != nullptr, "out of host memory: ", size, " bytes asked, ", counter_.stats().live_bytes,
                       " live, ", counter_.stats().cached_bytes, " cached");
    return p;
  }

  mutable std::mutex mutex_;
  Counter counter_;
  std::map<size_t, std::vector<void*>> cache_;  // by real size
  std::unordered_map<void*, size_t> larger_;    // blocks in use that are larger than their class
  int64_t held_ = 0;                            // from the system now
};

class MetaAllocator final : public Allocator {
 public:
  void* allocate(size_t bytes) override {
    const std::lock_guard lock(mutex_);
    counter_.add(static_cast<int64_t>(size_class(bytes)));
    // Addresses in the non-canonical hole of x86-64: unique, and touching one faults.
    next_ += size_class(bytes);
    return reinterpret_cast<void*>(next_);
  }
  void free(void*, size_t bytes) override {
    const std::lock_guard lock(mutex_);
    counter_.remove(static_cast<int64_t>(size_class(bytes)));
  }
  AllocatorStats stats() const override {
    const std::lock_guard lock(mutex_);
    return counter_.stats();
  }
  void reset_peak() override {
    const std::lock_guard lock(mutex_);
    counter_.reset_peak();
  }
  Device device() const override { return Device::kMeta; }

 private:
  mutable std::mutex mutex_;
  Counter counter_;
  uint64_t next_ = 0x1000'0000'0000'0000ull;
};

}  // namespace

std::shared_ptr<Allocator> make_cpu_allocator() { return std::make_shared<CpuAllocator>(); }
std::shared_ptr<Allocator> make_meta_allocator() { return std::make_shared<MetaAllocator>(); }

}  // namespace tpo
