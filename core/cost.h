#pragma once
// What one kernel launch does, counted and not timed.
#include <cstdint>

namespace tpo {

struct Cost {
  int64_t flops = 0;        // floating point operations as executed (a fused multiply-add counts two)
  int64_t read_bytes = 0;   // from memory, each operand once
  int64_t write_bytes = 0;  // to memory, each result once
};

}  // namespace tpo
