#pragma once
// Element-wise reduction of n buffers in the order given: ((s0 + s1) + s2) + ... Never anything else, so that the
// result does not depend on who computes it or how the range is cut.
#include <cstddef>
#include <cstdint>
#include <span>

#include "parallel/comm/work.h"

namespace tpo {

// dst may be one of the sources. dtype f32, i32, i64 or u8; integers wrap.
void reduce_buffers(std::byte* dst, std::span<const std::byte* const> sources, int64_t count, DType dtype, ReduceOp op);
inline bool reducible(DType t) { return t != DType::kBF16; }

}  // namespace tpo
