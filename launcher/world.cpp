#include "launcher/world.h"

#include <glog/logging.h>

#include <csignal>
#include <cstdlib>
#include <iostream>

#include "core/error.h"
#include "launcher/exit_codes.h"
#include "parallel/comm/mpi.h"
#include "parallel/sharding/param_sync.h"

namespace tpo {

namespace {

// Flags of a signal handler; nothing else in the project is a mutable global.
volatile std::sig_atomic_t g_stop = 0;
void on_stop(int) { g_stop = 1; }

// Set by Open MPI's mpirun, by PMIx launchers such as srun, and by MPICH's Hydra.
bool started_by_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(name) != nullptr) return true;
  return false;
}

void report(const std::exception& error, int rank, int size) {
  std::string line = "tpo_dist: ";
  if (size > 1) line += cat("rank ", rank, " of ", size, ": ");
  if (const int64_t step = activity().step; step >= 0) line += cat("step ", step, ", ", activity().phase.load(), ": ");
  std::cerr << line + error.what() + "\n" << std::flush;
}

}  // namespace

Activity& activity() {
  static Activity a;
  return a;
}

bool stop_requested() { return g_stop != 0; }

void catch_stop_signals() {
  struct sigaction action = {};
  action.sa_handler = on_stop;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGUSR1, &action, nullptr);
}

int exit_code_of(const std::exception& e) {
  if (dynamic_cast<const NonFiniteGradient*>(&e) != nullptr) return kExitNotFinite;
  if (dynamic_cast<const ConfigError*>(&e) != nullptr) return kExitFixConfig;
  if (dynamic_cast<const DataError*>(&e) != nullptr) return kExitFixData;
  if (dynamic_cast<const IoError*>(&e) != nullptr) return kExitBadMachine;
  if (dynamic_cast<const CommError*>(&e) != nullptr) return kExitBadMachine;
  if (dynamic_cast<const DeviceError*>(&e) != nullptr) return kExitBadMachine;
  return kExitBug;
}

int run_world(int* argc, char*** argv, const std::function<int(ProcessGroup& world)>& body) {
  if (!started_by_launcher()) {
    const auto world = make_single("world");
    try {
      return body(*world);
    } catch (const std::exception& e) {
      report(e, 0, 1);
      return exit_code_of(e);
    }
  }
  MpiWorld mpi(argc, argv);
  try {
    const auto world = make_mpi_world();
    const int code = body(*world);
    world->barrier("end of program").wait_host();
    return code;
  } catch (const std::exception& e) {
    report(e, mpi.rank(), mpi.size());
    // A lone rank has no peers that wait; others must be ended, since a collective would never complete.
    MpiWorld::abort(exit_code_of(e));
  }
}

}  // namespace tpo
