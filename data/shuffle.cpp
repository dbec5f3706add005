#include "data/shuffle.h"

#include <algorithm>
#include <bit>

#include "core/error.h"

namespace tpo {

namespace {
constexpr uint64_t kRounds = 6;  // 4 make a pseudorandom permutation in theory; 6 for halves of very few bits
}

Permutation::Permutation(RngKey key, int64_t n) : key_(key), n_(n) {
  check<ConfigError>(n >= 1 && n <= int64_t{1} << 62, "a permutation of ", n, " items, expected 1..2^62");
  half_bits_ = std::max(1, (static_cast<int>(std::bit_width(static_cast<uint64_t>(n - 1))) + 1) / 2);
}

int64_t Permutation::operator()(int64_t i) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t x = static_cast<uint64_t>(i);
  do {  // walking a cycle of the larger permutation until it comes back into 0..n-1
    uint64_t left = x >> half_bits_, right = x & mask;
    for (uint64_t r = 0; r < kRounds; ++r) {
      const uint64_t next = left ^ (philox(key_, right, r)[0] & mask);
      left = right;
      right = next;
    }
    x = (left << half_bits_) | right;
  } while (x >= static_cast<uint64_t>(n_));
  return static_cast<int64_t>(x);
}

}  // namespace tpo
