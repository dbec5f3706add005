#pragma once
// Drills: TPO_FAULT makes one rank misbehave, to see what the guard says. See README.md for the format.
#include <cstdint>
#include <string>

namespace tpo {

// Reads TPO_FAULT; throws ConfigError naming what is wrong. Without it nothing below does anything.
void arm_fault(int rank);
// The training loop enters a phase; a loader thread begins to read a record.
void fault_in_phase(int64_t step, const char* phase);
void fault_in_loader(int64_t step);

}  // namespace tpo
