#pragma once
// Rows by index, fp32. Memory-bound. Indices are trusted: the ops check them.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

// y[n] = table[ids[n]]
struct GatherRows {
  static constexpr const char* kName = "gather_rows";
  const float* table;  // (*, cols)
  const int32_t* ids;  // (n)
  float* y;            // (n, cols)
  int64_t n, cols;
  Cost cost() const { return {0, 4 * n * (cols + 1), 4 * n * cols}; }
};
void run(const GatherRows&, Cpu, Stream&);
void run(const GatherRows&, Cuda, Stream&);

// out[ids[n]] += dy[n] in the order of n. A thread owns columns, so the order holds for any thread count.
struct ScatterAddRows {
  static constexpr const char* kName = "scatter_add_rows";
  const float* dy;     // (n, cols)
  const int32_t* ids;  // (n)
  float* out;          // (*, cols)
  int64_t n, cols;
  Cost cost() const { return {n * cols, 4 * n * (2 * cols + 1), 4 * n * cols}; }
};
void run(const ScatterAddRows&, Cpu, Stream&);
void run(const ScatterAddRows&, Cuda, Stream&);

// y[ids[n]] = src[n], or 0 if src is null. ids are distinct.
struct SetRows {
  static constexpr const char* kName = "set_rows";
  const float* src;    // (n, cols) or null
  const int32_t* ids;  // (n)
  float* y;            // (*, cols)
  int64_t n, cols;
  Cost cost() const { return {0, 4 * n * ((src ? cols : 0) + 1), 4 * n * cols}; }
};
void run(const SetRows&, Cpu, Stream&);
void run(const SetRows&, Cuda, Stream&);

// y[n] = row for every n
struct BroadcastRows {
  static constexpr const char* kName = "broadcast_rows";
  const float* row;  // (cols)
  float* y;          // (n, cols)
  int64_t n, cols;
  Cost cost() const { return {0, 4 * cols, 4 * n * cols}; }
};
void run(const BroadcastRows&, Cpu, Stream&);
void run(const BroadcastRows&, Cuda, Stream&);

}  // namespace tpo
