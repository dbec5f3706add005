#pragma once
// The rank's side of the guard: its event ring in a private folder of the job, and the supervisor of the node, which
// the first rank starts. Folder: /dev/shm/tpo_guard.<uid>/<job>.<host>, or below TMPDIR; the supervisor removes it at
// the end, the next job on the node what a killed supervisor left.
#include <memory>
#include <string>

#include "parallel/program/event_ring.h"

namespace tpo {

// Where this process stands in its job, as the launcher's environment says it: Open MPI, PMIx, Slurm, Hydra.
struct JobPlace {
  std::string id;  // the same for all ranks of a job, and for no other job of this user that runs
  int rank = 0, world = 1;
  bool launched = false;  // by mpirun or srun, not alone
};
JobPlace job_place();

class Guard {
 public:
  // Before any thread exists and before MPI_Init, since it forks. Null where it cannot work (one line on standard
  // error) and with TPO_GUARD=0. argv is overwritten in the supervisor, so that it does not look like a rank.
  static std::unique_ptr<Guard> start(const JobPlace& place, int argc, char** argv);
  // Nothing is recorded from here on. A ring without an end mark stays one of a rank that died.
  ~Guard();
  void finished(int exit_code) { ring_->end(RankEnd::kFinished, exit_code, ""); }
  // Returns when the supervisor has told what it knows, at the latest after 0.6 s: once this rank has ended the job,
  // mpirun may close the terminal at any moment.
  void failed(int exit_code, const std::string& error);

 private:
  explicit Guard(std::unique_ptr<EventRing> ring);
  std::unique_ptr<EventRing> ring_;
};

// Tells the supervisor of the run: where its black box goes, its configuration, and what counts as a stall (0: nothing
// is reported). Does nothing in an unguarded process.
void guard_run(const std::string& run_folder, const std::string& resolved_config, double stall_seconds,
               double slow_phase_seconds);

// For the signal handler: SIGTERM came.
void guard_terminated();

}  // namespace tpo
