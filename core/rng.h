#pragma once
// Counter-based randomness: Philox4x32-10. A value is a pure function of (key, counter); there is no stream state.
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace tpo {

// splitmix64 finaliser: a bijection of 64-bit words with full avalanche.
constexpr uint64_t mix64(uint64_t z) {
  z += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// FNV-1a, then mixed. For names (parameters, purposes); not for untrusted input.
constexpr uint64_t hash_name(std::string_view s) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (char c : s) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return mix64(h);
}

// Key of one purpose: chain of mixes, so that with("a").with(3) differs from with(3).with("a").
struct RngKey {
  uint64_t value = 0;
  constexpr RngKey() = default;
  constexpr explicit RngKey(uint64_t seed) : value(mix64(seed)) {}
  constexpr RngKey with(uint64_t x) const {
    RngKey k;
    k.value = mix64(value ^ mix64(x + 0x632be59bd9b4e019ull));
    return k;
  }
  constexpr RngKey with(std::string_view s) const { return with(hash_name(s)); }
};

// Four independent 32-bit words for (key, counter).
constexpr std::array<uint32_t, 4> philox(RngKey key, uint64_t counter_lo, uint64_t counter_hi = 0) {
  std::array<uint32_t, 4> c{static_cast<uint32_t>(counter_lo), static_cast<uint32_t>(counter_lo >> 32),
                            static_cast<uint32_t>(counter_hi), static_cast<uint32_t>(counter_hi >> 32)};
  uint32_t k0 = static_cast<uint32_t>(key.value), k1 = static_cast<uint32_t>(key.value >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// [0, 1) with 24 bits, exact in fp32.
constexpr float uniform01(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

// Two standard normals from two words (Box-Muller).
inline std::array<float, 2> normal2(uint32_t a, uint32_t b) {
  const double u = (static_cast<double>(a) + 0.5) * 0x1p-32;
  const double r = std::sqrt(-2.0 * std::log(u)), t = 6.283185307179586 * (static_cast<double>(b) * 0x1p-32);
  return {static_cast<float>(r * std::cos(t)), static_cast<float>(r * std::sin(t))};
}

// Integer in [0, n), n >= 1, without modulo bias worth naming for n < 2^32 (bias below n / 2^64).
constexpr uint64_t uniform_below(RngKey key, uint64_t counter, uint64_t n) {
  const auto w = philox(key, counter);
  const uint64_t x = (static_cast<uint64_t>(w[0]) << 32) | w[1];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(x) * n) >> 64);
}

}  // namespace tpo
