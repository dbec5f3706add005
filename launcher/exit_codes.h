#pragma once
// What the exit status of tpo_dist tells a script: retry, fix something, or change the machine.
#include <exception>

namespace tpo {

enum ExitCode : int {
  kExitDone = 0,
  kExitBug = 1,         // an internal invariant failed: report it
  kExitFixConfig = 2,   // a flag or configuration value is illegal; retrying changes nothing
  kExitFixData = 3,     // a dataset, checkpoint or picture is damaged, missing or of another kind
  kExitNotFinite = 4,   // NaN or infinity in loss or gradient; the last checkpoint is intact
  kExitBadMachine = 5,  // file system, communication or device failed: try another machine
  kExitDifferent = 6,   // ckpt diff: both checkpoints are sound, and they differ
  kExitStopped = 75,    // SIGTERM or SIGUSR1: saved and stopped; start again to continue
};

// The code for an exception of this project, and kExitBug for any other.
int exit_code_of(const std::exception& error);

}  // namespace tpo
