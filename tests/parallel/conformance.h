#pragma once
// What every ProcessGroup must do. The same cases run on rank threads (conformance_test.cpp) and under mpirun
// (mpi_main.cpp); they use no test framework, and fail by throwing.
#include <string>
#include <vector>

#include "parallel/comm/process_group.h"

namespace tpo::conformance {

struct Case {
  const char* name;
  void (*run)(ProcessGroup& world);
};

// Every case leaves the group usable.
const std::vector<Case>& cases();

// Sums in rank order bit for bit; where several nodes have several ranks: in the order of `nodes`, each a list of
// ranks.
void sums_follow_rank_order(ProcessGroup& world);
void sums_follow_order(ProcessGroup& world, const std::vector<std::vector<int>>& nodes);

// Ranks issue different operations: each gets a CommError that names both sides. Each case leaves its group broken.
const std::vector<Case>& divergences();

}  // namespace tpo::conformance
