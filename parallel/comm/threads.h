#pragma once
// Rank threads: n ranks in one process, with real data. The test twin of MPI, and what the thread sanitizer sees.
// Collectives are carried out by the last rank that arrives, in rank order.
// No schedule of rank failures hangs: when a rank throws, the others are released with a CommError; when every rank
// still running waits and nothing can complete, all are released with a CommError that says who waits for what.
#include <functional>

#include "parallel/comm/process_group.h"

namespace tpo {

// Runs fn(world) on n threads, each with its own CPU stream and one compute thread, and joins them. If ranks fail, the
// first failure in time is rethrown with its type and "rank k: " in front.
void run_ranks(int n, const std::function<void(ProcessGroup& world)>& fn);

}  // namespace tpo
