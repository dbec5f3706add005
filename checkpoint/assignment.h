#pragma once
// Who writes what: a pure function of which rank holds which elements, so that every rank computes it alone.
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/part.h"

namespace tpo {

struct LogicalTensor {
  std::string name;
  Shape full;
  int64_t element_bytes = 4;
  std::vector<std::vector<Part>> held;  // by rank: disjoint parts; those of different ranks may be equal or overlap
};

struct PieceTask {
  int tensor = 0;  // index into the argument
  Part part;       // normalised
  int rank = 0;    // the writer; it holds all of the part
};

// A piece is at most this long, so that one large tensor does not make one rank the slowest.
inline constexpr int64_t kMaxPieceBytes = 64 << 20;

// Cuts every tensor into disjoint pieces, each held by one set of ranks and at most kMaxPieceBytes long, and gives
// each, largest first, to the least loaded rank that holds it. Sorted by (tensor, part). With k parts per tensor O(k
// log k) where their rectangles are equal or disjoint, as they are when every rank cuts a tensor in the same way;
// O(k^2) otherwise. Throws ConfigError naming the tensor and the first (row, column) that no rank holds, or a part
// outside the tensor.
std::vector<PieceTask> assign_pieces(const std::vector<LogicalTensor>& tensors, int ranks);

}  // namespace tpo
