#pragma once
// Compares two checkpoints tensor by tensor, bit for bit, whatever layouts wrote them.
#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"

namespace tpo {

struct TensorDifference {
  std::string name;
  DType dtype = DType::kF32;
  Shape full;
  int64_t elements = 0;          // that differ in a bit
  int64_t first = 0;             // row-major number of the first one in the full tensor
  std::string first_a, first_b;  // its values, exact
  double largest = 0;            // |a - b|; NaN if a NaN is in an element that differs, 0 for 0 and -0
  uint64_t largest_whole = 0;    // the same, exact, of an integer type
};

struct CheckpointDifference {
  std::vector<std::string> only_a, only_b;  // names of tensors, and "counter:<name>"; sorted
  std::vector<std::string> reshaped;        // "w f32(2, 3) and f32(3, 2)"
  std::vector<std::string> counters;        // "step 10 and 20"
  std::vector<TensorDifference> tensors;    // of equal shape and type, sorted by name
  int64_t compared = 0;                     // tensors of equal shape and type
  bool none() const {
    return only_a.empty() && only_b.empty() && reshaped.empty() && counters.empty() && tensors.empty();
  }
};

// Compares tensors and counters; not configuration, fingerprint, time or the number of ranks. Reads every byte twice:
// all checksums first, then both in turns. Memory: 9 MiB and the manifests, however large a tensor or a piece is.
// Throws DataError for the first fault of either, IoError.
CheckpointDifference diff(const std::string& folder_a, const std::string& folder_b);

// One line per difference, with a and b for the two; empty if there is none.
std::vector<std::string> lines_of(const CheckpointDifference& difference);

}  // namespace tpo
