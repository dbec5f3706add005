// Max pooling, channels in chunks: a chunk of every input of the window is compared with the maximum so far, which
// stays in the first cache.
#include <algorithm>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/pool.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr int64_t kChunk = 256;  // channels

struct Range {
  int64_t begin, end;
};

// Inputs of output o; outputs of input i.
Range inputs_of(const PoolAxis& a, int64_t o) {
  const int64_t begin = o * a.stride - a.padding;
  return {std::max<int64_t>(0, begin), std::min(a.in, begin + a.kernel)};
}
Range outputs_of(const PoolAxis& a, int64_t i) {
  const int64_t past = i + a.padding - a.kernel;  // the last input that is too early to share a window with i
  return {past < 0 ? 0 : past / a.stride + 1, std::min(a.out, (i + a.padding) / a.stride + 1)};
}

template <class T>
struct Best {
  float value[kChunk];
  int32_t place[kChunk];

  void start(const T* x, int32_t at, int64_t n) {
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) value[c] = widen(x[c]), place[c] = at;
  }
  void challenge(const T* x, int32_t at, int64_t n) {
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) {
      const float v = widen(x[c]);
      const bool wins = !(v <= value[c]);  // or is NaN; or the maximum so far is, and stays
      const bool lost = value[c] != value[c];
      place[c] = wins && !lost ? at : place[c];
      value[c] = wins && !lost ? v : value[c];
    }
  }
};

// sum[c] += dy[c] where the maximum was `here`; = if first.
template <bool kFirst, class T, class D>
void take(const T* dy, const uint8_t* place, uint8_t here, D* sum, int64_t n) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) {
    const float g = place[c] == here ? widen(dy[c]) : 0.0f;
    if constexpr (kFirst)
      sum[c] = narrow<D>(g);
    else
      sum[c] += g;
  }
}

// The gradient of the pixels of image row r (of all images) and column j.
template <class T>
void pixel_gradient(const MaxPoolBwd& k, int64_t r, int64_t j) {
  const int64_t i = r % k.h.in, first_row = r / k.h.in * k.h.out;
  const Range rows = outputs_of(k.h, i), cols = outputs_of(k.w, j);
  const int64_t windows = std::max<int64_t>(0, rows.end - rows.begin) * std::max<int64_t>(0, cols.end - cols.begin);
  T* dx = static_cast<T*>(k.dx) + (r * k.w.in + j) * k.channels;
  float sum[kChunk];
  for (int64_t from = 0; from < k.channels; from += kChunk) {
    const int64_t n = std::min(kChunk, k.channels - from);
    if (windows != 1) std::fill(sum, sum + n, 0.0f);
    for (int64_t o = rows.begin; o < rows.end; ++o)
      for (int64_t p = cols.begin; p < cols.end; ++p) {
        const int64_t at = ((first_row + o) * k.w.out + p) * k.channels + from;
        const T* dy = static_cast<const T*>(k.dy) + at;
        const int64_t up = i - o * k.h.stride + k.h.padding, left = j - p * k.w.stride + k.w.padding;
        const auto here = static_cast<uint8_t>(up * k.w.kernel + left);
        windows == 1 ? take<true>(dy, k.place + at, here, dx + from, n) : take<false>(dy, k.place + at, here, sum, n);
      }
    if (windows != 1) convert(sum, dx + from, n);
  }
}

}  // namespace

void run(const MaxPoolFwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.images * k.h.out, row_grain(k.w.out * k.channels, kHeavyGrain), [&](int64_t begin, int64_t end) {
      Best<T> best;
      for (int64_t r = begin; r < end; ++r) {
        const T* image = static_cast<const T*>(k.x) + r / k.h.out * k.h.in * k.w.in * k.channels;
        const int64_t o = r % k.h.out;
        const Range rows = inputs_of(k.h, o);
        for (int64_t p = 0; p < k.w.out; ++p) {
          const Range cols = inputs_of(k.w, p);
          const int64_t to = (r * k.w.out + p) * k.channels;
          for (int64_t from = 0; from < k.channels; from += kChunk) {
            const int64_t n = std::min(kChunk, k.channels - from);
            for (int64_t i = rows.begin; i < rows.end; ++i)
              for (int64_t j = cols.begin; j < cols.end; ++j) {
                const T* x = image + (i * k.w.in + j) * k.channels + from;
                const int64_t up = i - o * k.h.stride + k.h.padding, left = j - p * k.w.stride + k.w.padding;
                const auto at = static_cast<int32_t>(up * k.w.kernel + left);
                i == rows.begin&& j == cols.begin ? best.start(x, at, n) : best.challenge(x, at, n);
              }
            convert(best.value, static_cast<T*>(k.y) + to + from, n);
            if (k.place == nullptr) continue;
#pragma omp simd
            for (int64_t c = 0; c < n; ++c) k.place[to + from + c] = static_cast<uint8_t>(best.place[c]);
          }
        }
      }
    });
  });
}

void run(const MaxPoolBwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.images * k.h.in, row_grain(k.w.in * k.channels, kHeavyGrain), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t j = 0; j < k.w.in; ++j) pixel_gradient<T>(k, r, j);
    });
  });
}

}  // namespace tpo
