#pragma once
// StepProfile: the steps of a run that `profile { steps first_step folder }` asks for, timed kernel by kernel, and the
// files they leave in <run folder>/<profile.folder>/: trace_rankN.json (Chrome trace events, opens in Perfetto) of
// every rank, table.txt and table.json of rank 0. Profiling changes no value of the run.
#include <cstdint>
#include <memory>
#include <string>

#include "core/profile.h"
#include "launcher/trainer.h"

namespace tpo {

// Steps [first, end).
struct ProfileRange {
  int64_t first = 0, end = 0;
};
// What a run that starts with `steps_done` steps profiles. By default the steps after the first two, which fill caches
// and memory pools; from earlier on, or fewer, if the run has not that many left. A range that was given is cut to what
// is left of it.
ProfileRange profile_range(const config::RunConfig& config, int64_t steps_done);

// What the profile is of, for tables and traces.
struct ProfileContext {
  ProfileRange range;
  int rank = 0, ranks = 1, threads = 1;
  double peak_gflops = 0;  // of one thread, for "% of peak"; 0: not known
};

// Chrome trace event format: one complete event a region, wait, backward or kernel, in microseconds of the steady
// clock, which the ranks of one node share. Communication in flight stands on a track of its own.
std::string profile_trace(const Profiler& profile, const ProfileContext& context);
// Where a step's time goes: by phase, then by op and kernel. `most` rows of the latter; 0: all.
std::string profile_table(const Profiler& profile, const ProfileContext& context, size_t most = 0);
// The same rows for programs: sums over the profiled steps in ns, calls, operations and bytes.
std::string profile_json(const Profiler& profile, const ProfileContext& context);

class StepProfile {
 public:
  // Throws nothing; with profile.steps = 0 it only hands on step().
  StepProfile(const config::RunConfig& config, int64_t steps_done, int rank, int ranks, double peak_gflops);
  // trainer.step(), timed if it is due. Writes the files after the last profiled step, or when the run is asked to stop
  // before. Throws IoError.
  StepStats step(Trainer& trainer);
  // The table to print, once, right after the files were written; else empty. On rank 0.
  std::string take_table();

 private:
  void write();

  std::string folder_;
  ProfileContext context_;
  std::unique_ptr<Profiler> profiler_;  // from the first profiled step to the last
  std::string table_;
};

}  // namespace tpo
