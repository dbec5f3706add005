// Rows by index: copies and ordered sums.
#include <algorithm>
#include <cstring>

#include "core/kernels/embedding.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/storage.h"

namespace tpo {

namespace {

// Calls body(n) for every row.
template <class Body>
void for_rows(int64_t rows, int64_t row_bytes, const Body& body) {
  parallel_for(rows, row_grain(row_bytes / 4, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) body(n);
  });
}

char* row_at(void* p, int64_t row, int64_t row_bytes) { return static_cast<char*>(p) + row * row_bytes; }
const char* row_at(const void* p, int64_t row, int64_t row_bytes) {
  return static_cast<const char*>(p) + row * row_bytes;
}

}  // namespace

void run(const GatherRows& k, Cpu, Stream&) {
  const auto bytes = static_cast<size_t>(k.row_bytes);
  for_rows(k.n, k.row_bytes, [&](int64_t n) {
    char* dst = row_at(k.y, n, k.row_bytes);
    const int64_t row = k.ids[n] - k.first;
    if (row >= 0 && row < k.rows) {
      std::memcpy(dst, row_at(k.table, row, k.row_bytes), bytes);
    } else {
      std::memset(dst, 0, bytes);
    }
  });
}

void run(const ScatterAddRows& k, Cpu, Stream&) {
  const int64_t grain = std::max<int64_t>(64, kLightGrain * kLoopBlock / std::max<int64_t>(1, k.n));
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.cols, grain, [&](int64_t begin, int64_t end) {
      for (int64_t n = 0; n < k.n; ++n) {
        const T* src = static_cast<const T*>(k.dy) + n * k.cols;
        const int64_t row = k.ids[n] - k.first;
        if (row < 0 || row >= k.rows) continue;
        float* dst = k.out + row * k.cols;
#pragma omp simd
        for (int64_t c = begin; c < end; ++c) dst[c] += widen(src[c]);
      }
    });
  });
}

void run(const SetRows& k, Cpu, Stream&) {
  const auto bytes = static_cast<size_t>(k.row_bytes);
  for_rows(k.n, k.row_bytes, [&](int64_t n) {
    char* dst = row_at(k.y, k.ids[n], k.row_bytes);
    if (k.src != nullptr) {
      std::memcpy(dst, row_at(k.src, n, k.row_bytes), bytes);
    } else {
      std::memset(dst, 0, bytes);
    }
  });
}

void run(const BroadcastRows& k, Cpu, Stream&) {
  const auto bytes = static_cast<size_t>(k.row_bytes);
  for_rows(k.n, k.row_bytes, [&](int64_t n) { std::memcpy(row_at(k.y, n, k.row_bytes), k.row, bytes); });
}

}  // namespace tpo
