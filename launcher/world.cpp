#include "launcher/world.h"

#include <glog/logging.h>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <string_view>

#include "core/error.h"
#include "launcher/exit_codes.h"
#include "launcher/fault.h"
#include "launcher/guard.h"
#include "parallel/comm/mpi.h"
#include "parallel/sharding/param_sync.h"

namespace tpo {

namespace {

// Flags of a signal handler; nothing else in the project is a mutable global.
volatile std::sig_atomic_t g_stop = 0;
void on_stop(int signal) {
  g_stop = 1;
  if (signal == SIGTERM) guard_terminated();
}

// Others may wait minutes for a rank in one of these.
bool is_slow(std::string_view phase) {
  return phase == "start-up" || phase == "resume" || phase == "checkpoint" || phase == "evaluation";
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

void Activity::Step::operator=(int64_t step) {
  now_ = step;
  if (EventRing* ring = EventRing::of_process()) ring->step(step, true);
}

void Activity::Step::end() {
  if (EventRing* ring = EventRing::of_process()) ring->step(now_, false);
}

void Activity::Phase::operator=(const char* name) {
  now_ = name;
  if (EventRing* ring = EventRing::of_process()) ring->phase(name, is_slow(name));
  fault_in_phase(activity().step, name);
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

namespace {

// srun and an MPI library without a common PMI start every task as if it were the only one.
void check_alone() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  check<ConfigError>(tasks == nullptr || std::atoi(tasks) <= 1, "srun started ", tasks == nullptr ? "" : tasks,
                     " tasks, but this one knows of no other: srun and MPI share no PMI; use srun --mpi=pmix (srun "
                     "--mpi=list shows what there is), or examples/launch/slurm_mpirun.sbatch");
}

}  // namespace

int run_world(int* argc, char*** argv, const std::function<int(ProcessGroup& world)>& body, bool guard_lone) {
  const JobPlace place = job_place();
  const auto guard = place.launched || guard_lone ? Guard::start(place, *argc, *argv) : nullptr;
  if (guard) activity().phase = "start-up";
  if (!place.launched) {
    const auto world = make_single("world");
    try {
      // doctor has no guard and says it in its own way.
      if (guard_lone) check_alone();
      arm_fault(0, 1);
      const int code = body(*world);
      fault_over();
      if (guard) guard->finished(code);
      return code;
    } catch (const std::exception& e) {
      if (guard) guard->failed(exit_code_of(e), e.what());
      report(e, 0, 1);
      return exit_code_of(e);
    }
  }
  MpiWorld mpi(argc, argv);
  try {
    arm_fault(mpi.rank(), mpi.size());
    MpiOptions options;
    options.on_fallback = [](const std::string& what) {
      LOG(WARNING) << what
                   << "; MPI messages are several times slower (tpo_dist doctor says how much /dev/shm is needed)";
    };
    const auto world = make_mpi_world(options);
    if (mpi.rank() == 0 && mpi.size() > 1) LOG(INFO) << mpi.size() << " ranks talk through " << world->transport();
    const int code = body(*world);
    fault_over();
    world->barrier("end of program").wait_host();
    if (guard) guard->finished(code);
    return code;
  } catch (const std::exception& e) {
    if (guard) guard->failed(exit_code_of(e), e.what());
    report(e, mpi.rank(), mpi.size());
    // A lone rank has no peers that wait; others must be ended, since a collective would never complete.
    MpiWorld::abort(exit_code_of(e));
  }
}

}  // namespace tpo
