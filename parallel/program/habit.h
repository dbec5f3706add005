#pragma once
// Habit: of ranks that disagree, or that wait for each other, who does not do what it did before. A rank issues the
// same collectives step after step, with sizes that follow from the data. So each says how well the operation it stands
// in fits what it issued until then, and the operation that fits worse is the odd one. A left-out operation shows,
// since its successor follows the operation before it nowhere else; a wrong size shows, since it was never seen, or is
// no multiple of what all sizes of that tensor are multiples of (rows of a fixed width).
#include <cstdint>
#include <span>

namespace tpo {

// A collective in a rank's history: slot of its group in 6 bits, what it is in 26, its size in 32.
constexpr uint64_t habit_word(int slot, uint64_t operation_hash) {
  return operation_hash << 6 >> 6 | static_cast<uint64_t>(slot) << 58;
}

struct Fit {
  int32_t known = 0;     // 0: nothing is known, and nothing below counts
  int32_t follows = 0;   // operations before it, and itself, that came in this order already; sizes by which are equal
  int32_t exactly = 0;   // the same with equal sizes
  int32_t multiple = 0;  // 1: its size is a multiple of what all earlier sizes of it are multiples of
};

// The last of the words against those before it, which are oldest first.
Fit fit_of(std::span<const uint64_t> words);

// Below 0: a fits worse than b. 0: no telling. same_kind: a and b differ in nothing but the size.
int compare_fits(const Fit& a, const Fit& b, bool same_kind);

}  // namespace tpo
