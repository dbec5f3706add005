#pragma once
#include <cstdint>

namespace tpo {

// Learning rate by step: linear warm-up, then half a cosine down to a floor.
//   step < warmup_steps:  base (step + 1) / warmup_steps, so that the first step already moves
//   later:                base ((1 + f) + (1 - f) cos(pi q)) / 2 with f = floor_ratio,
//                         q = min(1, (step - warmup_steps) / (total_steps - warmup_steps))
// From total_steps on it stays at base * floor_ratio.
struct LrSchedule {
  double base = 1e-3;        // peak learning rate, >= 0
  int64_t warmup_steps = 0;  // >= 0
  int64_t total_steps = 1;   // >= warmup_steps
  double floor_ratio = 0;    // [0, 1], share of base that is left at the end

  // The rate of step `step`, counted from 0. Throws ConfigError if a field or the step is out of range.
  double at(int64_t step) const;
};

}  // namespace tpo
