#pragma once
// Heap: which part of a growing range of addresses is in use. It deals in offsets only, so the same code places blocks
// in host memory and on meta. Neighbours that are free are joined at once, and a request takes the smallest of the free
// blocks that are large enough (to 1/8 of a power of two), so blocks of one step serve whatever shapes the next has.
// All operations take constant time. Source: the two-level segregated fit of Masmano et al. 2004 ("TLSF: a new dynamic
// memory allocator for real-time systems"), with the links kept outside the memory.
// Thread rule: none of its own; the caller locks.
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tpo {

class Heap {
 public:
  static constexpr int64_t kGrain = 8192;  // bytes; every size and offset is a multiple

  Heap();
  // Offset of a block of `size` bytes, or -1 if no free block is large enough. size is a class of
  // Allocator::size_class above 64 KiB: where classes begin, bins begin, so all blocks of a bin are large enough.
  int64_t take(int64_t size);
  // Frees the block at `offset`, which take returned.
  void give(int64_t offset);
  // The top from which on take(size) succeeds, given that it fails now: a free block at the end is made use of.
  int64_t top_for(int64_t size) const;
  // Adds [top(), to) as free.
  void extend(int64_t to);
  // Adds one grain that is never free: blocks below and above it do not join, as their memory need not.
  void fence() { append(top_ + kGrain); }

  int64_t top() const { return top_; }
  int64_t free_bytes() const { return free_bytes_; }  // below top()

 private:
  struct Block {
    int64_t begin = 0, size = 0;
    int32_t before = -1, after = -1;  // neighbours by address
    int32_t prev = -1, next = -1;     // in its bin, while free
    bool free = false;
  };
  static constexpr int kBins = 8 * 34;  // up to 2^34 grains

  static int bin_of(int64_t size);
  Block& block(int32_t i) { return blocks_[static_cast<size_t>(i)]; }
  int32_t make(int64_t begin, int64_t size);
  void append(int64_t to);     // [top(), to) as one block in use
  void enter(int32_t i);       // into its bin
  void leave(int32_t i);       // its bin
  void join_after(int32_t i);  // swallows the neighbour above
  int first_filled(int bin) const;

  std::vector<Block> blocks_;
  std::vector<int32_t> spare_;  // unused entries of blocks_
  std::vector<int32_t> at_;     // block that begins at a grain
  std::array<int32_t, kBins> bins_;
  std::array<uint64_t, (kBins + 63) / 64> filled_{};
  int32_t last_ = -1;  // block with the highest address
  int64_t top_ = 0, free_bytes_ = 0;
};

}  // namespace tpo
