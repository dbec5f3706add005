#pragma once
// What `tpo_dist bench comm` measures: every collective and point-to-point pattern of a group over sizes, in turns with
// MPI's own blocking calls in the same run.
//
// Time. A sample is the mean of `calls` calls that follow a barrier, taken from the slowest rank: 10 calls up to 64
// KiB, 1 above. Contenders take turns within a round and a round starts with another one each time, so that noise of
// the machine falls on all; ratios are medians over rounds of the two times of one round. Sizes and bandwidth as
// nccl-tests defines them (doc/PERFORMANCE.md there). S is the whole buffer in bytes: of a reduce_scatter the input, of
// an all_gather the output, both rounded down to a multiple of the ranks. Algorithm bandwidth is S / t; bus bandwidth
// is that times bus_factor. Data. Before it is timed every contender works once on known integers, and every element of
// its result is compared.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/process_group.h"

namespace tpo {

enum class CommKind { kAllReduce, kReduceScatter, kAllGather, kBroadcast, kBarrier, kPingPong, kExchange, kCopy };
const char* name_of(CommKind kind);  // "all_reduce", ...
// Bytes that cross the slowest link per byte of S, where links work both ways at once: all_reduce 2 (n - 1) / n,
// reduce_scatter and all_gather (n - 1) / n, all others 1. ping_pong is half a round trip between ranks 2k and 2k + 1;
// exchange sends to the next rank while it receives from the previous one; S counts one way. n >= 1.
double bus_factor(CommKind kind, int ranks);

struct CommBenchOptions {
  std::vector<CommKind> kinds;
  std::vector<int64_t> sizes;  // bytes; rounded down to whole elements, at least one a rank
  DType dtype = DType::kF32;   // f32, i32 or i64
  int iterations = 100;        // rounds of a line at most
  double line_seconds = 1;     // time of a line, roughly: fewer rounds, but at least 5, where they take longer
};

// One way to do an operation.
struct CommTimes {
  std::string by;            // "ours", "ours shared", "mpi", "mpi 2 MiB"
  int64_t bucket_bytes = 0;  // done as operations of this size one after the other; 0: one
  double median_s = 0, min_s = 0, p99_s = 0;
  std::vector<double> samples = {};  // s, per round
};

struct CommLine {
  CommKind kind;
  int64_t bytes = 0;  // S
  int64_t count = 0;  // elements a rank hands over (all_gather), gets (reduce_scatter) or both
  int ranks = 1, calls = 1;
  std::vector<CommTimes> times = {};  // ours first
  const CommTimes* find(const std::string& by) const;
  const CommTimes* best_bucketed() const;  // of MPI; null if the operation is smaller than a bucket
  double algorithm_gb_s(const CommTimes& t) const { return static_cast<double>(bytes) / t.median_s * 1e-9; }
  double bus_gb_s(const CommTimes& t) const { return algorithm_gb_s(t) * bus_factor(kind, ranks); }
};
// Median over rounds of time(b) / time(a): how many times faster a is.
double speed_ratio(const CommTimes& a, const CommTimes& b);
double median_of(std::vector<double> values);  // of at least one

// Ranks that are measured together. Groups of a kind work at the same time; figures are those of the slowest.
struct BenchGroup {
  std::string name;  // world, node, pairs
  std::unique_ptr<ProcessGroup> ours, mpi;
  int ranks = 1, smallest = 1;  // of the largest and of the smallest group
};
// Collective over world. `mpi` is MPI's own world group or null; nodes[r] identifies the node of rank r. Pairs are
// ranks in the same place of two neighbouring nodes; with one node everybody is alone there.
BenchGroup make_bench_group(const std::string& name, ProcessGroup& world, ProcessGroup* mpi,
                            const std::vector<int>& nodes);

// Collective over world; every rank calls `done` with each line. Throws CommError naming operation, size, contender and
// element where a result is wrong.
void measure_comm(ProcessGroup& world, const BenchGroup& group, const CommBenchOptions& options,
                  const std::function<void(const CommLine&)>& done);

}  // namespace tpo
