#include "parallel/comm/reduce.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace tpo {
namespace {

constexpr int64_t kBlock = 1024;  // elements summed on the stack: two blocks of 8-byte elements fit the L1 cache

using To = std::span<std::byte* const>;
using Sources = std::span<const std::byte* const>;

template <class T, class Acc, ReduceOp kOp>
void combine(Acc* __restrict acc, const T* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const Acc v = static_cast<Acc>(x[i]);
    if constexpr (kOp == ReduceOp::kSum) {
      acc[i] = static_cast<Acc>(acc[i] + v);
    } else {
      acc[i] = static_cast<int>(v > acc[i]) | static_cast<int>(v != v) ? v : acc[i];  // a NaN stays, whoever has it
    }
  }
}

// Stored as T, reduced as Acc. A block is read from all before it is written to any.
template <class T, class Acc, ReduceOp kOp>
void reduce_typed(To to, Sources sources, int64_t count) {
  Acc acc[kBlock];
  T rounded[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    const size_t bytes = static_cast<size_t>(n) * sizeof(T), offset = static_cast<size_t>(begin) * sizeof(T);
    const auto typed = [offset](const std::byte* s) { return reinterpret_cast<const T*>(s + offset); };
    for (int64_t i = 0; i < n; ++i) acc[i] = static_cast<Acc>(typed(sources[0])[i]);
    for (const std::byte* s : sources.subspan(1)) combine<T, Acc, kOp>(acc, typed(s), n);
    const void* result = acc;
    if constexpr (!std::is_same_v<T, Acc>) {
      for (int64_t i = 0; i < n; ++i) rounded[i] = T(acc[i]);
      result = rounded;
    }
    for (std::byte* d : to) std::memcpy(d + offset, result, bytes);
  }
}

template <class SumT, class MaxT, class SumAcc = SumT, class MaxAcc = MaxT>
void reduce_as(To to, Sources sources, int64_t count, ReduceOp op) {
  if (op == ReduceOp::kSum) {
    reduce_typed<SumT, SumAcc, ReduceOp::kSum>(to, sources, count);
  } else {
    reduce_typed<MaxT, MaxAcc, ReduceOp::kMax>(to, sources, count);
  }
}

}  // namespace

void reduce_buffers(To to, Sources sources, int64_t count, DType dtype, ReduceOp op) {
  switch (dtype) {  // signed integers are added as unsigned, where wrapping is defined
    case DType::kF32:
      return reduce_as<float, float>(to, sources, count, op);
    case DType::kBF16:
      return reduce_as<BF16, BF16, float, float>(to, sources, count, op);
    case DType::kI32:
      return reduce_as<uint32_t, int32_t>(to, sources, count, op);
    case DType::kI64:
      return reduce_as<uint64_t, int64_t>(to, sources, count, op);
    case DType::kU8:
      return reduce_as<uint8_t, uint8_t>(to, sources, count, op);
  }
  throw CommError(cat("reduction of dtype number ", static_cast<int>(dtype)));
}

}  // namespace tpo
