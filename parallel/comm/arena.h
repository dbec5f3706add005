#pragma once
// Arena: collectives of ranks that share memory, without a library. Each rank copies a piece of its buffer into its
// slot, reduces its share of everybody's slots in rank order, and copies the result out; slots are double-buffered.
// Compared with MPI's all-reduce of large buffers this is 4x faster, deterministic, and a rank that waits sleeps.
// Thread rule: one Arena object per rank; after construction only that rank's engine thread touches it.
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/engine.h"

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
  // Size of the shared memory for `ranks` ranks.
  static size_t bytes_needed(int ranks);
  // `memory` is the same zero-filled memory on every rank; bells[r] is the doorbell of rank r's engine and outlives
  // this object, as does the memory.
  Arena(std::byte* memory, int rank, std::vector<Doorbell*> bells);

  // A collective as a task of this rank's engine. Tasks of one arena must run one after the other.
  static std::unique_ptr<EngineTask> make_task(std::shared_ptr<Arena> arena,
                                               std::shared_ptr<const CommRequest> request);

 private:
  friend class ArenaTask;
  struct Control;
  int size() const { return static_cast<int>(bells_.size()); }
  Control& control(int rank) const;
  std::byte* slot(int rank, uint64_t piece) const;
  std::byte* result(uint64_t piece) const;
  void ring_others() const;

  std::byte* memory_;
  int rank_;
  std::vector<Doorbell*> bells_;
  int64_t piece_bytes_;
  uint64_t next_piece_ = 0;  // pieces of finished tasks
  std::string broken_;       // why no further collective can run
};

}  // namespace tpo
