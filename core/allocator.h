#pragma once
// Allocators in stream order with exact statistics. Freed memory is kept, so that a training step after the first asks
// the operating system for nothing (malloc's mmap and munmap of large tensors cost 13-29 % of a PyTorch step on the
// reference machine). Blocks up to 64 KiB are kept by size class; larger ones are parts of one range of addresses in
// which free neighbours join (heap.h), so that steps of ever changing shapes hold little more than the largest of them
// uses: in tests/core/allocator_test.cpp 2,000 steps of random packed lengths hold 1.04 times the peak of live bytes.
// The range never shrinks: with blocks kept by class alone, and given back when no present shape fitted them, such
// steps spent 140 ms each in page faults that now take 2. Where addresses are limited (ulimit -v) there may be several.
// Thread rule: allocate and free may be called from any thread.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/device.h"
#include "core/memory.h"

namespace tpo {

struct AllocatorStats {
  int64_t live_bytes = 0;       // handed out and not yet freed, rounded to size classes
  int64_t peak_bytes = 0;       // maximum of live_bytes since the last reset_peak
  int64_t cached_bytes = 0;     // freed by us, still held from the system
  int64_t held_peak_bytes = 0;  // maximum of what was held from the system: the allocator's part of the process
  int64_t allocations = 0;      // calls of allocate
  int64_t system_requests = 0;  // how often memory was asked from the system: constant once a run is warm
};

class Allocator {
 public:
  virtual ~Allocator() = default;
  // Returns 64-byte aligned memory of at least `bytes`; zero bytes give a valid unique block.
  // Throws DeviceError with the sizes when memory is exhausted.
  virtual void* allocate(size_t bytes, MemoryKind kind = MemoryKind::kWorkspace) = 0;
  // bytes and kind as given to allocate.
  virtual void free(void* p, size_t bytes, MemoryKind kind = MemoryKind::kWorkspace) = 0;
  virtual AllocatorStats stats() const = 0;
  virtual void reset_peak() = 0;
  virtual Device device() const = 0;

  // Bytes by kind, with a moment for each phase. An allocator over memory of somebody else counts nothing.
  virtual MemoryUse memory() const { return {}; }
  // What is allocated from here on belongs to the phase `name`, which may have been begun before. A phase is one of the
  // allocator, whichever thread began it. Keeps the pointer: give a literal.
  virtual void begin_phase(const char* /*name*/) {}
  // Called at every launch: names the moment that the allocations before it made a peak, if they did. Where threads
  // share an allocator, that of another thread may come first and give its name. Keeps the pointer: give a literal.
  void launched(const char* kernel) {
    if (unnamed_peak_.load(std::memory_order_relaxed)) name_peak(kernel);
  }

  // The size that `bytes` occupies: multiples of 256 up to 4 KiB, then steps of 1/8 of the power of two below
  // (whole pages from 32 KiB on).
  // Waste is at most 12.5 % above 4 KiB. Shared by every allocator, so that meta counts what a device uses.
  static size_t size_class(size_t bytes);

 protected:
  virtual void name_peak(const char* /*kernel*/) {}
  std::atomic<bool> unnamed_peak_ = false;
};

// Real host memory. Given back wholly when destroyed.
std::shared_ptr<Allocator> make_cpu_allocator();
// The same program over fake addresses, so that every statistic is that of a real run. Touching the memory is a bug
// and faults.
std::shared_ptr<Allocator> make_meta_allocator();

}  // namespace tpo
