#include "core/heap.h"

#include <bit>

#include "core/error.h"

namespace tpo {

Heap::Heap() { bins_.fill(-1); }

// Up to 7 grains a bin each, then eight bins for every power of two.
int Heap::bin_of(int64_t size) {
  const auto grains = static_cast<uint64_t>(size / kGrain);
  if (grains < 8) return static_cast<int>(grains);
  const int power = std::bit_width(grains) - 1;
  return (power - 2) * 8 + static_cast<int>((grains >> (power - 3)) & 7);
}

int32_t Heap::make(int64_t begin, int64_t size) {
  int32_t i = 0;
  if (spare_.empty()) {
    i = static_cast<int32_t>(blocks_.size());
    blocks_.emplace_back();
  } else {
    i = spare_.back();
    spare_.pop_back();
  }
  block(i) = {begin, size};
  at_[static_cast<size_t>(begin / kGrain)] = i;
  return i;
}

void Heap::enter(int32_t i) {
  const auto bin = static_cast<size_t>(bin_of(block(i).size));
  block(i).free = true, block(i).prev = -1, block(i).next = bins_[bin];
  if (bins_[bin] >= 0) block(bins_[bin]).prev = i;
  bins_[bin] = i;
  filled_[bin / 64] |= uint64_t{1} << (bin % 64);
  free_bytes_ += block(i).size;
}

void Heap::leave(int32_t i) {
  const auto bin = static_cast<size_t>(bin_of(block(i).size));
  const Block b = block(i);
  (b.prev >= 0 ? block(b.prev).next : bins_[bin]) = b.next;
  if (b.next >= 0) block(b.next).prev = b.prev;
  if (bins_[bin] < 0) filled_[bin / 64] &= ~(uint64_t{1} << (bin % 64));
  block(i).free = false;
  free_bytes_ -= b.size;
}

void Heap::join_after(int32_t i) {
  const int32_t gone = block(i).after, after = block(gone).after;
  block(i).size += block(gone).size;
  block(i).after = after;
  (after >= 0 ? block(after).before : last_) = i;
  spare_.push_back(gone);
}

// The first bin from `bin` on that holds a block, or -1.
int Heap::first_filled(int bin) const {
  auto word = static_cast<size_t>(bin) / 64;
  uint64_t bits = filled_[word] & (~uint64_t{0} << (bin % 64));
  while (bits == 0) {
    if (++word == filled_.size()) return -1;
    bits = filled_[word];
  }
  return static_cast<int>(word * 64) + std::countr_zero(bits);
}

int64_t Heap::take(int64_t size) {
  TPO_ASSERT(size > 0 && size % kGrain == 0);
  const int bin = first_filled(bin_of(size));
  if (bin < 0) return -1;
  const int32_t i = bins_[static_cast<size_t>(bin)];
  leave(i);
  if (const int64_t rest = block(i).size - size; rest > 0) {
    const int32_t upper = make(block(i).begin + size, rest);
    const int32_t after = block(i).after;
    block(upper).before = i, block(upper).after = after;
    (after >= 0 ? block(after).before : last_) = upper;
    block(i).after = upper, block(i).size = size;
    enter(upper);
  }
  return block(i).begin;
}

void Heap::give(int64_t offset) {
  int32_t i = at_[static_cast<size_t>(offset / kGrain)];
  TPO_ASSERT(!block(i).free && block(i).begin == offset);
  if (const int32_t after = block(i).after; after >= 0 && block(after).free) {
    leave(after);
    join_after(i);
  }
  if (const int32_t before = block(i).before; before >= 0 && block(before).free) {
    leave(before);
    join_after(before);
    i = before;
  }
  enter(i);
}

int64_t Heap::top_for(int64_t size) const {
  const bool tail_free = last_ >= 0 && blocks_[static_cast<size_t>(last_)].free;
  return top_ + size - (tail_free ? blocks_[static_cast<size_t>(last_)].size : 0);
}

void Heap::append(int64_t to) {
  TPO_ASSERT(to > top_ && to % kGrain == 0);
  at_.resize(static_cast<size_t>(to / kGrain), -1);
  const int32_t i = make(top_, to - top_), below = last_;
  block(i).before = below;
  if (below >= 0) block(below).after = i;
  last_ = i;
  top_ = to;
}

void Heap::extend(int64_t to) {
  const int64_t begin = top_;
  append(to);
  give(begin);
}

}  // namespace tpo
