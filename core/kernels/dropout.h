#pragma once
// Dropout by counters. Element (n, c) is kept iff word c % 4 of philox(key, c / 4, row_ids[n]), as a number in [0, 1)
// of 24 bits, is >= p; kept elements are multiplied by 1 / (1 - p). Nothing is saved: backward is the same kernel on
// dy. The mask depends on row_ids[n], not on n: packing, the split over ranks and the storage do not change it.
// whole_rows: word 0 of philox(key, 0, row_ids[n]) decides for all of row n.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/rng.h"

namespace tpo {

class Stream;

struct Dropout {
  static constexpr const char* kName = "dropout";
  const void* x = nullptr;           // (rows, cols)
  const int64_t* row_ids = nullptr;  // (rows)
  void* y = nullptr;                 // (rows, cols), may be x
  int64_t rows = 0, cols = 0;
  float p = 0;  // 0 <= p < 1
  RngKey key;
  DType dtype = DType::kF32;
  int64_t first_col = 0;  // of x within the full tensor, whose columns the mask counts
  bool whole_rows = false;
  Cost cost() const {
    return {whole_rows ? rows * (26 + cols) : 26 * rows * cols, width_of(dtype) * rows * cols + 8 * rows,
            width_of(dtype) * rows * cols};
  }
};
void run(const Dropout&, Cpu, Stream&);
void run(const Dropout&, Cuda, Stream&);

}  // namespace tpo
