#pragma once
// Dropout by counters. Element (n, c) is kept iff word c % 4 of philox(key, c / 4, row_ids[n]), as a number in [0, 1)
// of 24 bits, is >= p; kept elements are multiplied by 1 / (1 - p). Nothing is saved: backward is the same kernel on
// dy. The mask depends on row_ids[n], not on n: packing, the split over ranks and the storage do not change it.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/rng.h"

namespace tpo {

class Stream;

struct Dropout {
  static constexpr const char* kName = "dropout";
  const void* x;           // (rows, cols)
  const int64_t* row_ids;  // (rows)
  void* y;                 // (rows, cols), may be x
  int64_t rows, cols;
  float p;  // 0 <= p < 1
  RngKey key;
  DType dtype;
  int64_t first_col = 0;  // of x within the full tensor, whose columns the mask counts
  Cost cost() const {
    return {26 * rows * cols, width_of(dtype) * rows * cols + 8 * rows, width_of(dtype) * rows * cols};
  }
};
void run(const Dropout&, Cpu, Stream&);
void run(const Dropout&, Cuda, Stream&);

}  // namespace tpo
