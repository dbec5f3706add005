#pragma once
// What a rank says about its collective so that others can tell whether it is the same one.
#include <cstdint>
#include <string>
#include <type_traits>

#include "parallel/comm/work.h"

namespace tpo {

struct WireHeader {
  uint64_t seq = 0, what_hash = 0;
  int64_t count = 0;
  int32_t peer = -1;
  uint8_t op = 0, reduce = 0, dtype = 0, pad = 0;
  uint64_t place =
      0;  // where in memory shared by the ranks the tensor lies, the same number on all of them; 0: private
  char what[88] = {};  // for messages, cut; the hash covers all of it
};
static_assert(std::is_trivially_copyable_v<WireHeader> && sizeof(WireHeader) == 128);

WireHeader make_header(const CommRequest& r);
// Empty if `theirs` is the same collective; else one sentence naming both sides and the first field that differs.
std::string header_mismatch(const CommRequest& mine, const WireHeader& theirs, int their_rank);

}  // namespace tpo
