#include "checkpoint/safetensors/convert.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "core/dtype.h"
#include "core/error.h"

namespace tpo {
namespace {

struct F16 {
  uint16_t bits = 0;
  F16() = default;
  explicit F16(float f) : bits(f16_of_f32(f)) {}
  explicit operator float() const { return f32_of_f16(bits); }
};

template <class From, class To>
int64_t convert_all(std::span<const std::byte> in, std::span<std::byte> out) {
  const size_t n = in.size() / sizeof(From);
  TPO_ASSERT(out.size() / sizeof(To) == n);
  const auto* from = reinterpret_cast<const From*>(in.data());
  auto* to = reinterpret_cast<To*>(out.data());
  int64_t overflows = 0;
  for (size_t i = 0; i < n; ++i) {
    const float value = static_cast<float>(from[i]);
    to[i] = static_cast<To>(value);
    if constexpr (sizeof(To) < sizeof(float)) {
      overflows += std::isfinite(value) && !std::isfinite(static_cast<float>(to[i])) ? 1 : 0;
    }
  }
  return overflows;
}

template <class From>
int64_t convert_from(std::span<const std::byte> in, SafeType to, std::span<std::byte> out) {
  if (to == SafeType::kF16) return convert_all<From, F16>(in, out);
  if (to == SafeType::kBF16) return convert_all<From, BF16>(in, out);
  return convert_all<From, float>(in, out);
}

}  // namespace

float f32_of_f16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, rest = bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | rest << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | rest << 13);
  const float small = std::ldexp(static_cast<float>(rest), -24);  // subnormal, exact
  return sign ? -small : small;
}

uint16_t f16_of_f32(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | (size >> 13 & 0x3ffu));  // NaN
  if (size >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);                         // 65,520 and more
  if (size < 0x38800000u) {  // below 2^-14: a multiple of 2^-24; nearbyint rounds to even
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(std::ldexp(std::fabs(value), 24))));
  }
  const uint32_t rounded = size + 0xfffu + (size >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

int64_t convert(SafeType from, std::span<const std::byte> in, SafeType to, std::span<std::byte> out) {
  TPO_ASSERT(is_weight(from) && is_weight(to));
  if (from == to) {
    TPO_ASSERT(in.size() == out.size());
    if (!in.empty()) std::memcpy(out.data(), in.data(), in.size());
    return 0;
  }
  if (from == SafeType::kF16) return convert_from<F16>(in, to, out);
  if (from == SafeType::kBF16) return convert_from<BF16>(in, to, out);
  return convert_from<float>(in, to, out);
}

}  // namespace tpo
