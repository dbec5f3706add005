#pragma once
// Element types. Arithmetic is fp32 everywhere; bf16 is a storage type.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <ostream>

#include "core/inline.h"

namespace tpo {

enum class DType : uint8_t { kF32 = 0, kBF16 = 1, kI32 = 2, kI64 = 3, kU8 = 4 };

constexpr size_t size_of(DType t) {
  switch (t) {
    case DType::kF32:
      return 4;
    case DType::kBF16:
      return 2;
    case DType::kI32:
      return 4;
    case DType::kI64:
      return 8;
    case DType::kU8:
      return 1;
  }
  return 0;
}

// The same as a signed number, for costs.
constexpr int64_t width_of(DType t) { return static_cast<int64_t>(size_of(t)); }

constexpr const char* name_of(DType t) {
  switch (t) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kU8:
      return "u8";
  }
  return "?";
}

inline std::ostream& operator<<(std::ostream& out, DType t) { return out << name_of(t); }

// Storages of floating-point values.
constexpr bool is_float(DType t) { return t == DType::kF32 || t == DType::kBF16; }

// 16-bit brain float: the upper half of an fp32. Conversion rounds to nearest even; NaN stays NaN.
struct BF16 {
  uint16_t bits = 0;
  BF16() = default;
  // Both without branches, so that loops over them are vector code.
  TPO_INLINE explicit BF16(float f) {
    const auto u = std::bit_cast<uint32_t>(f);
    const uint32_t nan = (u >> 16) | 0x40u, rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    bits = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
  }
  TPO_INLINE explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<BF16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};

}  // namespace tpo
