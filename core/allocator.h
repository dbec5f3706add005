#pragma once
// Allocators in stream order with exact statistics. The caching allocator keeps freed blocks in size classes so that
// a training step after the first asks the operating system for nothing (malloc's mmap and munmap of large tensors
// cost 13-29 % of a PyTorch step on the reference machine).
// Thread rule: allocate and free may be called from any thread.
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/device.h"

namespace tpo {

struct AllocatorStats {
  int64_t live_bytes = 0;       // handed out and not yet freed, rounded to size classes
  int64_t peak_bytes = 0;       // maximum of live_bytes since the last reset_peak
  int64_t cached_bytes = 0;     // freed by us, still held from the system
  int64_t held_peak_bytes = 0;  // maximum of what was held from the system: the allocator's part of the process
  int64_t allocations = 0;      // calls of allocate
};

class Allocator {
 public:
  virtual ~Allocator() = default;
  // Returns 64-byte aligned memory of at least `bytes`; zero bytes give a valid unique block.
  // Throws DeviceError with the sizes when memory is exhausted.
  virtual void* allocate(size_t bytes) = 0;
  virtual void free(void* p, size_t bytes) = 0;
  virtual AllocatorStats stats() const = 0;
  virtual void reset_peak() = 0;
  virtual Device device() const = 0;

  // The size that `bytes` occupies: multiples of 256 up to 4 KiB, then steps of 1/8 of the power of two below
  // (whole pages from 32 KiB on).
  // Waste is at most 12.5 % above 4 KiB. Shared by every allocator, so that meta counts what a device uses.
  static size_t size_class(size_t bytes);
};

// Real host memory, cached by size class. Freed wholly when destroyed.
std::shared_ptr<Allocator> make_cpu_allocator();
// Fake addresses, the same statistics. Touching the memory is a bug and faults.
std::shared_ptr<Allocator> make_meta_allocator();

}  // namespace tpo
