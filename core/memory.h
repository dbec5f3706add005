#pragma once
// What memory is for. Every block has a kind, that of the innermost MemoryScope of the thread that allocated it; the
// allocator counts bytes by kind and remembers how they were shared out at the moment when most of them were in use.
// Costs an addition a block, so it is always on, and on meta it is the forecast of a run (tpo_dist plan).
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tpo {

enum class MemoryKind : uint8_t {
  kWeights,      // parameters, frozen ones too, and constant tables
  kGradients,    // of parameters: the buckets that ranks exchange
  kOptimizer,    // moments
  kActivations,  // values of a forward pass on a tape: kept for backward, or in flight
  kBatch,        // the arrays of a microbatch
  kWorkspace,    // everything else: gradients of values during backward, scratch, generation
};
inline constexpr int kMemoryKinds = 6;
std::string_view name_of(MemoryKind kind);  // "weights", ...

using BytesByKind = std::array<int64_t, kMemoryKinds>;

// The moment within a phase at which most bytes were live; the first one, if several had as many.
struct MemoryMoment {
  std::string phase;   // as given to Allocator::begin_phase; "start" before the first
  std::string kernel;  // the launch that followed the allocation; empty if it was there when the phase began
  int64_t bytes = 0;
  BytesByKind by_kind{};  // adds up to bytes
};

struct MemoryUse {
  BytesByKind live{};                // now
  BytesByKind peak{};                // of each kind alone; the moments differ
  std::vector<MemoryMoment> phases;  // in the order in which they first began, since the last reset_peak
  // The phase with the largest moment. Requires: phases is not empty, as in all that an allocator returns.
  const MemoryMoment& at_peak() const;
};

// Blocks that this thread allocates are of this kind until the scope ends. Outside any scope: kWorkspace.
class MemoryScope {
 public:
  explicit MemoryScope(MemoryKind kind);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;
  static MemoryKind current();

 private:
  MemoryKind previous_;
};

}  // namespace tpo
