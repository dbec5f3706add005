#pragma once
// Rows by index. Memory-bound. Copies move `row_bytes` of any dtype; sums are fp32. Indices are trusted: the ops check
// them.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// y[n] = table[ids[n] - first], or 0 if the table has no such row
struct GatherRows {
  static constexpr const char* kName = "gather_rows";
  const void* table;   // (*, row)
  const int32_t* ids;  // (n)
  void* y;             // (n, row)
  int64_t n, row_bytes;
  int64_t first = 0, rows = INT64_MAX;                                   // of the table: a part of a larger one
  Cost cost() const { return {0, n * (row_bytes + 4), n * row_bytes}; }  // as if it had every row
};
void run(const GatherRows&, Cpu, Stream&);
void run(const GatherRows&, Cuda, Stream&);

// out[ids[n] - first] += dy[n] in the order of n, where out has that row. A thread owns columns, so the order holds for
// any thread count.
struct ScatterAddRows {
  static constexpr const char* kName = "scatter_add_rows";
  const void* dy;      // (n, cols)
  const int32_t* ids;  // (n)
  float* out;          // (*, cols)
  int64_t n, cols;
  DType dtype;                          // of dy
  int64_t first = 0, rows = INT64_MAX;  // of out: a part of a larger table
  Cost cost() const { return {n * cols, n * ((width_of(dtype) + 4) * cols + 4), 4 * n * cols}; }
};
void run(const ScatterAddRows&, Cpu, Stream&);
void run(const ScatterAddRows&, Cuda, Stream&);

// y[ids[n]] = src[n], or 0 if src is null. ids are distinct.
struct SetRows {
  static constexpr const char* kName = "set_rows";
  const void* src;     // (n, row) or null
  const int32_t* ids;  // (n)
  void* y;             // (*, row)
  int64_t n, row_bytes;
  Cost cost() const { return {0, n * ((src ? row_bytes : 0) + 4), n * row_bytes}; }
};
void run(const SetRows&, Cpu, Stream&);
void run(const SetRows&, Cuda, Stream&);

// y[n] = row for every n
struct BroadcastRows {
  static constexpr const char* kName = "broadcast_rows";
  const void* row;  // (row)
  void* y;          // (n, row)
  int64_t n, row_bytes;
  Cost cost() const { return {0, row_bytes, n * row_bytes}; }
};
void run(const BroadcastRows&, Cpu, Stream&);
void run(const BroadcastRows&, Cuda, Stream&);

}  // namespace tpo
