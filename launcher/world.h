#pragma once
// Start-up and end of a rank: MPI when mpirun or srun started us, one rank otherwise; one top-level catch that prints
// rank, step, phase and message and ends the whole world, so that no rank is left waiting.
#include <atomic>
#include <functional>
#include <string>

#include "parallel/comm/process_group.h"

namespace tpo {

// What the rank is doing, for the message of a failure and for the guard, which records each change. Written by the
// trainer, read by the catch.
class Activity {
 public:
  class Step {
   public:
    void operator=(int64_t step);  // a step begins
    void end();                    // and ends
    operator int64_t() const { return now_; }

   private:
    std::atomic<int64_t> now_{-1};
  };
  class Phase {
   public:
    void operator=(const char* name);  // a literal
    const char* load() const { return now_; }

   private:
    std::atomic<const char*> now_{"start-up"};
  };
  Step step;
  Phase phase;
};
Activity& activity();

// Set by SIGTERM and SIGUSR1 (which mpirun forwards); polled at step boundaries.
bool stop_requested();

// Runs body(world) and returns its exit code. An exception becomes one line on standard error and an exit code; with
// more than one rank the world is ended with that code. The guard (guard.h) watches ranks that a launcher started, and
// a lone one if `guard_lone`. No thread may exist yet.
int run_world(int* argc, char*** argv, const std::function<int(ProcessGroup& world)>& body, bool guard_lone = false);

// Installs the handlers that stop_requested() reports. Called by the training command.
void catch_stop_signals();

}  // namespace tpo
