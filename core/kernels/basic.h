#pragma once
// Copies, fills and in-place sums that the tape itself needs. All memory-bound, one pass.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

// dst[i] += src[i], fp32.
struct AddInto {
  static constexpr const char* kName = "add_into";
  float* dst;        // (n)
  const float* src;  // (n)
  int64_t n;
  Cost cost() const { return {n, 8 * n, 4 * n}; }
};
void run(const AddInto&, Cpu, Stream&);
void run(const AddInto&, Cuda, Stream&);

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
