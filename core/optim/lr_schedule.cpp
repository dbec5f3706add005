#include "core/optim/lr_schedule.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tpo {

double LrSchedule::at(int64_t step) const {
  check<ConfigError>(base >= 0 && floor_ratio >= 0 && floor_ratio <= 1, "[lr_schedule] base ", base,
                     " must be at least 0 and floor_ratio ", floor_ratio, " in [0, 1]");
  check<ConfigError>(warmup_steps >= 0 && total_steps >= warmup_steps && step >= 0, "[lr_schedule] warmup_steps ",
                     warmup_steps, " must be in [0, total_steps ", total_steps, "] and step ", step, " at least 0");
  if (step < warmup_steps) return base * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  const double span = static_cast<double>(std::max<int64_t>(1, total_steps - warmup_steps));
  const double q = std::min(1.0, static_cast<double>(step - warmup_steps) / span);
  return base * 0.5 * ((1 + floor_ratio) + (1 - floor_ratio) * std::cos(3.14159265358979323846 * q));
}

}  // namespace tpo
