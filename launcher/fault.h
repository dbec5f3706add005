#pragma once
// Drills: TPO_FAULT makes one rank misbehave, to see what the guard says. See README.md for the format.
#include <cstdint>
#include <string>

namespace tpo {

struct FaultPlan {
  int rank = -1;
  int64_t step = -1;  // as the log counts; 0: start-up and resume
  std::string kind, phase, log;
  int op = 0;          // skip, size: after so many collectives of the step
  double seconds = 8;  // of a delay
};
// Throws ConfigError naming what is wrong and what is legal.
FaultPlan parse_fault(const std::string& text, int world);

// Reads TPO_FAULT; throws ConfigError. Without it nothing below does anything.
void arm_fault(int rank, int world);
// The training loop enters a phase; a loader thread begins to read a record.
void fault_in_phase(int64_t step, const char* phase);
void fault_in_loader(int64_t step);
// The program is over: a line on standard error if this rank should have misbehaved and did not.
void fault_over();

}  // namespace tpo
