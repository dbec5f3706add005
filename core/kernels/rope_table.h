#pragma once
// The angles of a rotary embedding as a table, for kernels that turn rows while they read them (attention).
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Stream;

// Row r of out: cosines, then sines, of positions[r] * theta^(-2i / dim), i < dim / 2.
struct RopeTable {
  static constexpr const char* kName = "rope_table";
  const int32_t* positions;  // (rows)
  float* out;                // (rows, dim)
  int64_t rows, dim;
  float theta;
  Cost cost() const { return {20 * rows * dim, 4 * rows, 4 * rows * dim}; }
};
void run(const RopeTable&, Cpu, Stream&);
void run(const RopeTable&, Cuda, Stream&);

}  // namespace tpo
