#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/kernels/index.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

void run(const GatherElements& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.picks, kLightGrain), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* x = static_cast<const T*>(k.x) + r * k.cols;
        const int32_t* idx = k.idx + r * k.picks;
        T* y = static_cast<T*>(k.y) + r * k.picks;
        for (int64_t j = 0; j < k.picks; ++j) y[j] = x[idx[j]];
      }
    });
  });
}

void run(const GatherIds& k, Cpu, Stream&) {
  for (int64_t j = 0; j < k.picks; ++j) k.y[j] = k.x[k.idx[j]];
}

namespace {

template <class In, class Out>
void scatter_add(const ScatterAddElements& k, int64_t begin, int64_t end) {
  std::vector<float> scratch(std::is_same_v<Out, float> ? 0 : static_cast<size_t>(k.cols));
  for (int64_t r = begin; r < end; ++r) {
    const In* src = static_cast<const In*>(k.src) + r * k.picks;
    const int32_t* idx = k.idx + r * k.picks;
    Out* out = static_cast<Out*>(k.out) + r * k.cols;
    float* sums = write_row(out, scratch.data());
    if (!k.accumulate) {
      std::fill_n(sums, k.cols, 0.0f);
    } else if constexpr (!std::is_same_v<Out, float>) {
      convert(out, sums, k.cols);
    }
    for (int64_t j = 0; j < k.picks; ++j) sums[idx[j]] += widen(src[j]);
    finish_row(out, sums, k.cols);
  }
}

// The keys (rank, column) of the `picks` first of a row, in order. Most elements of a long row are behind the last of
// the best so far and cost one comparison; the others are collected and, when as many again are there, the worse half
// is dropped: linear time for any order of the elements.
template <class T>
void top_keys(const T* x, int64_t cols, int64_t picks, std::vector<uint64_t>& best) {
  constexpr int64_t kBlock = 32;
  const auto n = static_cast<size_t>(picks);
  uint32_t bound = 0xffffffffu;  // ranks from here on are out: an equal one has a higher column
  uint32_t ranks[kBlock];
  best.clear();
  const auto drop_worse = [&] {
    if (best.size() <= n) return;
    std::nth_element(best.begin(), best.begin() + picks - 1, best.end());
    best.resize(n);
    bound = static_cast<uint32_t>(best.back() >> 32);
  };
  for (int64_t c = 0; c < cols; c += kBlock) {
    const int64_t width = std::min(kBlock, cols - c);
    uint32_t any = 0;
#pragma omp simd reduction(| : any)
    for (int64_t i = 0; i < width; ++i) {
      ranks[i] = descending_rank(widen(x[c + i]));
      any |= ranks[i] < bound ? 1u : 0u;
    }
    if (any == 0) continue;
    for (int64_t i = 0; i < width; ++i)
      if (ranks[i] < bound) best.push_back(uint64_t{ranks[i]} << 32 | static_cast<uint64_t>(c + i));
    if (best.size() >= 2 * n + kBlock) drop_worse();
  }
  drop_worse();
  std::sort(best.begin(), best.end());
}

}  // namespace

void run(const ScatterAddElements& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class In>() {
    with_storage(k.out_dtype, [&]<class Out>() {
      parallel_for(k.rows, row_grain(k.cols + k.picks, kLightGrain),
                   [&](int64_t begin, int64_t end) { scatter_add<In, Out>(k, begin, end); });
    });
  });
}

void run(const TopKRows& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.cols, kHeavyGrain), [&](int64_t begin, int64_t end) {
      std::vector<uint64_t> best;
      for (int64_t r = begin; r < end; ++r) {
        const T* x = static_cast<const T*>(k.x) + r * k.cols;
        top_keys(x, k.cols, k.picks, best);
        for (int64_t j = 0; j < k.picks; ++j) {
          const auto column = static_cast<int32_t>(best[static_cast<size_t>(j)] & 0xffffffffu);
          k.indices[r * k.picks + j] = column;
          static_cast<T*>(k.values)[r * k.picks + j] = x[column];
        }
      }
    });
  });
}

void run(const OneHot& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
      T* y = static_cast<T*>(k.y);
      std::fill(y + begin * k.cols, y + end * k.cols, T(0.0f));
      for (int64_t r = begin; r < end; ++r) y[r * k.cols + k.idx[r]] = T(1.0f);
    });
  });
}

}  // namespace tpo
