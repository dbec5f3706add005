#pragma once
// Inside comm/mpi*.cpp only: what an MPI call returned, as an exception.
#include <string>

namespace tpo {

// Throws CommError "WHAT failed: ..." in MPI's words unless rc is MPI_SUCCESS.
void check_mpi(int rc, const std::string& what);

}  // namespace tpo
