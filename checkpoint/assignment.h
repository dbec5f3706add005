#pragma once
// Who writes what: a pure function of which rank holds which elements, so that every rank computes it alone.
#include <cstdint>
#include <string>
#include <vector>

namespace tpo {

struct HeldRange {
  int64_t begin = 0;
  int64_t count = 0;
};

struct LogicalTensor {
  std::string name;
  int64_t numel = 0;
  int64_t element_bytes = 4;
  std::vector<HeldRange> held;  // by rank; ranges may be equal, overlap, or be empty
};

struct PieceTask {
  int tensor = 0;  // index into the argument
  int64_t begin = 0;
  int64_t count = 0;
  int rank = 0;  // the writer
};

// A piece is at most this long, so that one large tensor does not make one rank the slowest.
inline constexpr int64_t kMaxPieceBytes = 64 << 20;

// Cuts every tensor into pieces held by one set of ranks and at most kMaxPieceBytes long, and gives each, largest
// first, to the least loaded rank that holds it. Sorted by (tensor, begin).
// Throws ConfigError naming the tensor and the first element that no rank holds, or a range outside the tensor.
std::vector<PieceTask> assign_pieces(const std::vector<LogicalTensor>& tensors, int ranks);

}  // namespace tpo
