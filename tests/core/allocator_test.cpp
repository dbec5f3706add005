#include "core/allocator.h"

#include <gtest/gtest.h>

#include <set>

#include "core/tensor.h"

namespace tpo {
namespace {

TEST(allocator, size_classes_cover_waste_little_and_are_fixed_points) {
  EXPECT_EQ(Allocator::size_class(0), 256u);
  EXPECT_EQ(Allocator::size_class(1), 256u);
  EXPECT_EQ(Allocator::size_class(4096), 4096u);
  for (size_t bytes = 1; bytes < (size_t{1} << 30); bytes = bytes * 5 / 3 + 1) {
    const size_t size = Allocator::size_class(bytes);
    EXPECT_GE(size, bytes);
    EXPECT_EQ(Allocator::size_class(size), size);
    if (bytes > 4096) {
      EXPECT_LE(static_cast<double>(size), 1.126 * static_cast<double>(bytes)) << bytes;
    }
  }
}

TEST(allocator, statistics_are_exact_and_freed_blocks_are_reused) {
  const auto a = make_cpu_allocator();
  void* p = a->allocate(1000);
  void* q = a->allocate(5000);
  const int64_t both = 1024 + 5120;
  EXPECT_EQ(a->stats().live_bytes, both);
  a->free(p, 1000);
  EXPECT_EQ(a->stats().live_bytes, 5120);
  EXPECT_EQ(a->stats().peak_bytes, both);
  EXPECT_EQ(a->stats().cached_bytes, 1024);
  EXPECT_EQ(a->allocate(900), p);  // the same class: the cached block
  EXPECT_EQ(a->stats().cached_bytes, 0);
  a->free(q, 5000);
  a->reset_peak();
  EXPECT_EQ(a->stats().peak_bytes, 1024);
  a->free(p, 900);
}

TEST(allocator, changing_sizes_reuse_larger_blocks_and_do_not_pile_up) {
  const auto a = make_cpu_allocator();
  void* big = a->allocate(5000);
  a->free(big, 5000);
  void* smaller = a->allocate(4200);  // a class below, within half as large again
  EXPECT_EQ(smaller, big);
  EXPECT_EQ(a->stats().live_bytes, static_cast<int64_t>(Allocator::size_class(4200)));
  a->free(smaller, 4200);
  EXPECT_EQ(a->stats().cached_bytes, 5120);  // its real size came back
  void* tiny = a->allocate(100);
  EXPECT_NE(tiny, big) << "too small for that block";
  a->free(tiny, 100);
  // 200 different large sizes, one at a time: what is held stays near one block and the small allowance.
  for (size_t i = 0; i < 200; ++i) {
    const size_t bytes = (size_t{8} << 20) + i * (size_t{3} << 20);
    void* p = a->allocate(bytes);
    static_cast<char*>(p)[bytes - 1] = 1;
    a->free(p, bytes);
  }
  const int64_t largest = (int64_t{8} << 20) + 199 * (int64_t{3} << 20);
  EXPECT_LE(a->stats().held_peak_bytes, 2 * largest);
  EXPECT_LE(a->stats().cached_bytes, 9 * largest / 8 + (32 << 20));
}

TEST(allocator, meta_counts_like_cpu_for_the_same_calls) {
  const auto cpu = make_cpu_allocator(), meta = make_meta_allocator();
  std::set<void*> seen;
  for (int round = 0; round < 3; ++round) {
    std::vector<std::pair<void*, void*>> blocks;
    for (size_t bytes : {size_t{1}, size_t{777}, size_t{100000}, size_t{3} << 20}) {
      blocks.emplace_back(cpu->allocate(bytes), meta->allocate(bytes));
      EXPECT_TRUE(seen.insert(blocks.back().second).second) << "meta addresses are unique";
    }
    size_t i = 0;
    for (size_t bytes : {size_t{1}, size_t{777}, size_t{100000}, size_t{3} << 20}) {
      cpu->free(blocks[i].first, bytes);
      meta->free(blocks[i++].second, bytes);
    }
  }
  EXPECT_EQ(cpu->stats().peak_bytes, meta->stats().peak_bytes);
  EXPECT_EQ(cpu->stats().allocations, meta->stats().allocations);
  EXPECT_EQ(meta->stats().live_bytes, 0);
}

TEST(allocator, blocks_are_aligned) {
  const auto a = make_cpu_allocator();
  for (size_t bytes : {size_t{1}, size_t{300}, size_t{70000}, size_t{5} << 20}) {
    void* p = a->allocate(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
    a->free(p, bytes);
  }
}

}  // namespace
}  // namespace tpo
