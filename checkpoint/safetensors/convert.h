#pragma once
// Element types of weights. Widening is exact; narrowing rounds to nearest even, NaN stays NaN.
#include <cstddef>
#include <cstdint>
#include <span>

#include "checkpoint/safetensors/safetensors.h"

namespace tpo {

float f32_of_f16(uint16_t bits);
uint16_t f16_of_f32(float value);  // beyond 65,504 (65,520 rounded): infinity

// out[i] = in[i] in another type, both of f16, bf16, f32. Returns how many finite values became infinite.
// Requires: as many elements in both; each address is a multiple of its element's width.
int64_t convert(SafeType from, std::span<const std::byte> in, SafeType to, std::span<std::byte> out);

}  // namespace tpo
