#pragma once
// Ranks as processes under mpirun. One engine thread per rank makes all MPI calls after start-up; ranks of one node
// exchange data through a shared-memory arena (comm/arena.h), nodes through non-blocking MPI messages (comm/nodes.h).
#include <functional>
#include <memory>
#include <string>

#include "parallel/comm/process_group.h"

namespace tpo {

struct MpiOptions {
  bool arena = true;   // use memory that the ranks of a node share; false: every rank is a node of its own
  bool verify = true;  // between nodes: exchange a header before each collective so that mismatches are named
  int64_t message_bytes = int64_t{1} << 30;  // longer sends go as several messages: MPI counts are int
  // Called on rank 0 of a group or of a shared buffer that the system refused memory for, with one sentence.
  std::function<void(const std::string& what)> on_fallback = {};
};

// Initialises and finalises MPI. One per process, made on the main thread before any other thread exists.
class MpiWorld {
 public:
  // Throws CommError if MPI cannot serve calls from the engine thread.
  MpiWorld(int* argc, char*** argv);
  // Finalises, unless an exception is on its way: then the caller must abort(), since peers may be waiting.
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int node_rank() const { return node_rank_; }  // among the ranks of this node
  int node_size() const { return node_size_; }
  bool threads_multiple() const { return threads_multiple_; }
  // The processor name of this node.
  const std::string& node() const { return node_; }
  // Ends all ranks with this exit code, from any thread.
  [[noreturn]] static void abort(int code);

 private:
  int rank_ = 0, size_ = 1, node_rank_ = 0, node_size_ = 1;
  bool threads_multiple_ = false;
  int unwinding_ = 0;
  std::string node_;
};

// The group of all ranks. Collective; MPI must be initialised (MpiWorld). Groups must be gone before MpiWorld is.
std::unique_ptr<ProcessGroup> make_mpi_world(MpiOptions options = {});

}  // namespace tpo
