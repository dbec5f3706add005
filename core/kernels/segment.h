#pragma once
// Reductions over segments of packed rows, and cumulative sums. Segment s is rows cu[s] to cu[s+1] - 1 and may be
// empty; cu is trusted to rise from 0 to `rows`. Sums are fp32, row after row, in tiles of columns: memory-bound, and
// the order does not depend on threads.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// y[s,c] = sum over rows n of segment s of x[n,c], divided by their number if `mean`; 0 for an empty segment
struct SegmentSumFwd {
  static constexpr const char* kName = "segment_sum_fwd";
  const void* x;      // (rows, cols)
  const int32_t* cu;  // (segments + 1)
  void* y;            // (segments, cols)
  int64_t segments, rows, cols;
  bool mean;
  DType dtype;
  Cost cost() const {
    return {rows * cols, width_of(dtype) * rows * cols + 4 * (segments + 1), width_of(dtype) * segments * cols};
  }
};
void run(const SegmentSumFwd&, Cpu, Stream&);
void run(const SegmentSumFwd&, Cuda, Stream&);

// dx[n,c] = dy[s,c], divided by the number of rows if `mean`
struct SegmentSumBwd {
  static constexpr const char* kName = "segment_sum_bwd";
  const void* dy;     // (segments, cols)
  const int32_t* cu;  // (segments + 1)
  void* dx;           // (rows, cols)
  int64_t segments, rows, cols;
  bool mean;
  DType dtype;
  Cost cost() const {
    return {mean ? rows * cols : 0, width_of(dtype) * segments * cols + 4 * (segments + 1),
            width_of(dtype) * rows * cols};
  }
};
void run(const SegmentSumBwd&, Cpu, Stream&);
void run(const SegmentSumBwd&, Cuda, Stream&);

// y[s,c] = max over rows n of segment s of x[n,c], at[s,c] the first such row; NaN is the maximum. 0 and -1 if empty.
struct SegmentMaxFwd {
  static constexpr const char* kName = "segment_max_fwd";
  const void* x;      // (rows, cols)
  const int32_t* cu;  // (segments + 1)
  void* y;            // (segments, cols)
  int32_t* at;        // (segments, cols)
  int64_t segments, rows, cols;
  DType dtype;
  Cost cost() const {
    return {rows * cols, width_of(dtype) * rows * cols + 4 * (segments + 1), (width_of(dtype) + 4) * segments * cols};
  }
};
void run(const SegmentMaxFwd&, Cpu, Stream&);
void run(const SegmentMaxFwd&, Cuda, Stream&);

// dx[n,c] = n == at[s,c] ? dy[s,c] : 0
struct SegmentMaxBwd {
  static constexpr const char* kName = "segment_max_bwd";
  const void* dy;     // (segments, cols)
  const int32_t* at;  // (segments, cols)
  const int32_t* cu;  // (segments + 1)
  void* dx;           // (rows, cols)
  int64_t segments, rows, cols;
  DType dtype;
  Cost cost() const {
    return {rows * cols, (width_of(dtype) + 4) * segments * cols + 4 * (segments + 1), width_of(dtype) * rows * cols};
  }
};
void run(const SegmentMaxBwd&, Cpu, Stream&);
void run(const SegmentMaxBwd&, Cuda, Stream&);

// y[o,i,c] = sum over j <= i (exclusive: j < i; reverse: j >= i or j > i) of x[o,j,c]. y may be x.
struct CumSum {
  static constexpr const char* kName = "cumsum";
  const void* x;  // (outer, length, inner)
  void* y;        // (outer, length, inner)
  int64_t outer, length, inner;
  bool exclusive, reverse;
  DType dtype;
  int64_t numel() const { return outer * length * inner; }
  Cost cost() const { return {numel(), width_of(dtype) * numel(), width_of(dtype) * numel()}; }
};
void run(const CumSum&, Cpu, Stream&);
void run(const CumSum&, Cuda, Stream&);

}  // namespace tpo
