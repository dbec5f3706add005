#pragma once
// Arena: collectives of ranks that share memory, without a library. Each rank copies a piece of its buffer into its
// slot, reduces its share of everybody's slots in rank order, and copies the result out; slots are double-buffered.
// Where every rank's tensor lies at the same place of a shared buffer there are no slots, and no copies beyond need:
//   all_reduce       each rank reduces its share of all buffers and writes it to all of them: of n buffers every byte
//                    is read once and written once, which is the least possible
//   reduce_scatter   each rank reduces its part of all buffers (in place: into its own)
//   all_gather       in place: each rank copies the others' parts; broadcast: the root's buffer
// Whether that is so is decided when the headers of all ranks are there, from what all of them gave, so that all decide
// alike and none needs to know about the others.
// For a group over several nodes it is the part within a node: comm/nodes.h.
// A rank that waits sleeps.
// Thread rule: one Arena object per rank; after construction only that rank's engine thread touches it.
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/engine.h"
#include "parallel/comm/nodes.h"

namespace tpo {

// Zero-filled memory that several processes may map. Unmapped when destroyed.
class SharedMemory {
 public:
  // Throws IoError naming the segment when the system refuses (/dev/shm too small, no permission).
  static std::unique_ptr<SharedMemory> create(const std::string& name, size_t bytes);
  static std::unique_ptr<SharedMemory> open(const std::string& name, size_t bytes);
  // Removes the name; mappings stay. Call once every rank has opened it, so that a crash leaves nothing behind.
  static void unlink(const std::string& name) noexcept;
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  std::byte* data() const { return data_; }

 private:
  SharedMemory(void* data, size_t bytes) : data_(static_cast<std::byte*>(data)), bytes_(bytes) {}
  std::byte* data_;
  size_t bytes_;
};

class Arena {
 public:
  // Pieces of a group: the same number on every rank, also where nodes hold different numbers of ranks, since both ends
  // of the wire cut a collective alike.
  static int64_t piece_bytes(const Nodes& nodes);
  static int64_t piece_bytes(int64_t ranks_of_largest_node, bool several_nodes);
  // Size of the shared memory for `ranks` ranks.
  static size_t bytes_needed(int ranks, int64_t piece_bytes);
  // `memory` is the same zero-filled memory on every rank; bells[r] is the doorbell of rank r's engine and outlives
  // this object, as does the memory. Of a group over several nodes, ranks are numbered within the node.
  Arena(std::byte* memory, int64_t piece_bytes, int rank, std::vector<Doorbell*> bells);

  // `memory` is made of one part of part_bytes per rank, in rank order; tensors in it are reduced in place. Called for
  // the same memory in the same order on every rank, on the engine thread. Kept track of as long as `memory` lives.
  void add_shared(const std::shared_ptr<SharedMemory>& memory, size_t part_bytes);

  // Collectives so far that worked on the ranks' buffers themselves. On the engine thread, or after a wait.
  uint64_t in_place() const { return in_place_; }

  // A collective as a task of this rank's engine. Tasks of one arena must run one after the other. `crossing` is what
  // goes on between nodes; null: there is one node.
  static std::unique_ptr<EngineTask> make_task(std::shared_ptr<Arena> arena, std::shared_ptr<Crossing> crossing,
                                               std::shared_ptr<const CommRequest> request);

 private:
  friend class ArenaTask;
  struct Control;
  struct Shared {
    std::weak_ptr<SharedMemory> memory;
    size_t part_bytes;
    uint64_t number;
  };
  // Of [p, p + bytes) if it lies in this rank's part of shared memory: its place, which is the same number on every
  // rank for the same offset, and its address in the part of rank 0. Zero and null if not.
  struct Place {
    uint64_t number = 0;
    std::byte* of_rank0 = nullptr;
    size_t stride = 0;
  };
  Place find_shared(const std::byte* p, int64_t bytes);
  int size() const { return static_cast<int>(bells_.size()); }
  Control& control(int rank) const;
  std::byte* slot(int rank, uint64_t piece) const;
  std::byte* result(uint64_t piece) const;
  void ring_others() const;

  std::byte* memory_;
  int rank_;
  std::vector<Doorbell*> bells_;
  int64_t piece_bytes_;
  uint64_t next_piece_ = 0;   // pieces of finished tasks
  uint64_t collectives_ = 0;  // begun
  std::string broken_;        // why no further collective can run
  std::vector<Shared> shared_;
  uint64_t next_shared_ = 1, in_place_ = 0;
};

}  // namespace tpo
