#include "parallel/comm/reduce.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace tpo {
namespace {

constexpr int64_t kBlock = 1024;  // elements summed on the stack: two blocks of 8-byte elements fit the L1 cache

template <class T, ReduceOp kOp>
void combine(T* __restrict acc, const T* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (kOp == ReduceOp::kSum) {
      acc[i] = static_cast<T>(acc[i] + x[i]);
    } else {
      acc[i] = std::max(acc[i], x[i]);
    }
  }
}

// Sums wrap: signed types are added as unsigned.
template <class T, ReduceOp kOp>
void reduce_typed(std::byte* dst, std::span<const std::byte* const> sources, int64_t count) {
  T acc[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    const size_t bytes = static_cast<size_t>(n) * sizeof(T), offset = static_cast<size_t>(begin) * sizeof(T);
    std::memcpy(acc, sources[0] + offset, bytes);
    for (const std::byte* s : sources.subspan(1)) combine<T, kOp>(acc, reinterpret_cast<const T*>(s + offset), n);
    std::memcpy(dst + offset, acc, bytes);
  }
}

template <class SumT, class MaxT>
void reduce_as(std::byte* dst, std::span<const std::byte* const> sources, int64_t count, ReduceOp op) {
  if (op == ReduceOp::kSum) {
    reduce_typed<SumT, ReduceOp::kSum>(dst, sources, count);
  } else {
    reduce_typed<MaxT, ReduceOp::kMax>(dst, sources, count);
  }
}

}  // namespace

void reduce_buffers(std::byte* dst, std::span<const std::byte* const> sources, int64_t count, DType dtype,
                    ReduceOp op) {
  switch (dtype) {
    case DType::kF32:
      return reduce_as<float, float>(dst, sources, count, op);
    case DType::kI32:
      return reduce_as<uint32_t, int32_t>(dst, sources, count, op);
    case DType::kI64:
      return reduce_as<uint64_t, int64_t>(dst, sources, count, op);
    case DType::kU8:
      return reduce_as<uint8_t, uint8_t>(dst, sources, count, op);
    case DType::kBF16:
      break;
  }
  throw CommError(cat("reduction of ", dtype, " is not supported; use f32, i32, i64 or u8"));
}

}  // namespace tpo
