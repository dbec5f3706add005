#pragma once
// Start-up and end of a rank: MPI when mpirun or srun started us, one rank otherwise; one top-level catch that prints
// rank, step, phase and message and ends the whole world, so that no rank is left waiting.
#include <atomic>
#include <functional>
#include <string>

#include "parallel/comm/process_group.h"

namespace tpo {

// What the rank is doing, for the message of a failure. Written by the trainer, read by the catch.
struct Activity {
  std::atomic<int64_t> step{-1};
  std::atomic<const char*> phase{"start-up"};  // always a literal
};
Activity& activity();

// Set by SIGTERM and SIGUSR1 (which mpirun forwards); polled at step boundaries.
bool stop_requested();

// Runs body(world) and returns its exit code. An exception becomes one line on standard error and an exit code; with
// more than one rank the world is ended with that code.
int run_world(int* argc, char*** argv, const std::function<int(ProcessGroup& world)>& body);

// Installs the handlers that stop_requested() reports. Called by the training command.
void catch_stop_signals();

}  // namespace tpo
