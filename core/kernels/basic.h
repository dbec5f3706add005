#pragma once
// Copies and fills of bytes. Memory-bound, one pass.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

// dst[i] = src[i] for `bytes` bytes. The ranges must not overlap.
struct CopyBytes {
  static constexpr const char* kName = "copy_bytes";
  void* dst;
  const void* src;
  int64_t bytes;
  Cost cost() const { return {0, bytes, bytes}; }
};
void run(const CopyBytes&, Cpu, Stream&);
void run(const CopyBytes&, Cuda, Stream&);

// Zero bytes.
struct FillZero {
  static constexpr const char* kName = "fill_zero";
  void* dst;
  int64_t bytes;
  Cost cost() const { return {0, 0, bytes}; }
};
void run(const FillZero&, Cpu, Stream&);
void run(const FillZero&, Cuda, Stream&);

}  // namespace tpo
