#pragma once
// Element-wise reduction of n buffers in the order given: ((s0 + s1) + s2) + ... Never anything else, so that the
// result does not depend on who computes it or how the range is cut.
#include <cstddef>
#include <cstdint>
#include <span>

#include "parallel/comm/work.h"

namespace tpo {

// Writes the result to every one of `to`, each of which may be one of the sources. Integers wrap. bf16 is summed in
// fp32 and rounded once. The maximum of numbers and a NaN is a NaN. Reads n * count elements and writes to.size() *
// count.
void reduce_buffers(std::span<std::byte* const> to, std::span<const std::byte* const> sources, int64_t count,
                    DType dtype, ReduceOp op);
inline void reduce_buffers(std::byte* to, std::span<const std::byte* const> sources, int64_t count, DType dtype,
                           ReduceOp op) {
  reduce_buffers(std::span<std::byte* const>(&to, 1), sources, count, dtype, op);
}

}  // namespace tpo
