#pragma once
// Keyed permutation of 0..n-1 without a table: a Feistel network on the next even power of two, walked until it lands
// inside.
#include <cstdint>

#include "core/rng.h"

namespace tpo {

class Permutation {
 public:
  // n >= 1, up to 2^62. Throws ConfigError otherwise.
  Permutation(RngKey key, int64_t n);
  int64_t size() const { return n_; }
  int64_t operator()(int64_t i) const;  // Requires 0 <= i < n. A bijection; on average under four Philox-keyed passes.

 private:
  RngKey key_;
  int64_t n_;
  int half_bits_;
};

}  // namespace tpo
