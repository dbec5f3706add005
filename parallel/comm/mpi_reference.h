#pragma once
// MPI's own collectives, for comparison: a ProcessGroup on a duplicate of the world communicator whose operations are
// single blocking MPI calls on the thread that issues them, without our engine, arena or pieces. Also what this MPI is.
// Every function here is for the main thread, at a moment when no Work of this rank is in flight: our engine then
// sleeps, so that MPI_THREAD_SERIALIZED is enough.
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/process_group.h"

namespace tpo {

struct MpiFacts {
  bool running = false;      // between MpiWorld and its end; the fields below the library are empty if not
  std::string library;       // "Open MPI v4.1.4"
  std::string standard;      // "3.1"
  std::string thread_level;  // "MPI_THREAD_MULTIPLE"
  bool one_thread = false;   // only the main thread may call MPI: tpo_dist cannot run
};
// Works before MPI is initialised.
MpiFacts mpi_facts();

// Collective over MPI's world. Sends and receives complete in the wait of their Work, everything else before the call
// returns; split works as in every group, shared_buffer gives ordinary memory. At most 2^31 - 1 elements an operation;
// bf16 is moved but not reduced, since MPI does not know it (CommError); what the ranks issue is not compared.
// Null where MPI is not running: a rank started alone, rank threads.
std::unique_ptr<ProcessGroup> make_mpi_reference();

// For each rank of MPI's world the world rank of the first rank that shares memory with it: the same number means the
// same node. Collective. {0} where MPI is not running.
std::vector<int> mpi_nodes();

}  // namespace tpo
