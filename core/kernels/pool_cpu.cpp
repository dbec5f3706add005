// Max pooling, channels in chunks: a chunk of every input of the window is compared with the maximum so far, which
// stays in the first cache.
#include <algorithm>
#include <vector>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/pool.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

constexpr int64_t kChunk = 128;  // channels

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
      const float v = widen(x[c]), m = value[c];
      const bool wins = !(v <= m) & (m == m);  // greater, or NaN; a NaN stays
      const int32_t won = wins ? at : 0;       // places grow along the window: the last one that won is the largest
      place[c] = place[c] < won ? won : place[c];
      value[c] = wins ? v : m;
    }
  }
};

// sum[c] += dy[c] where the maximum was `here`; = if first.
template <bool kFirst, class T, class D>
void take(const T* dy, const uint8_t* place, uint8_t here, D* sum, int64_t n) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) {
    const float v = widen(dy[c]), g = place[c] == here ? v : 0.0f;
    if constexpr (kFirst)
      sum[c] = narrow<D>(g);
    else
      sum[c] += g;
  }
}

// dx[c] for c < channels of pixel (i, j), which lies in the windows rows x cols; dy and place are those of its image.
// `sum` is scratch of as many elements.
template <class T>
void pixel_gradient(const MaxPoolBwd& k, const T* dy, const uint8_t* place, int64_t i, int64_t j, Range rows,
                    Range cols, float* sum, T* dx) {
  const bool single = rows.end - rows.begin == 1 && cols.end - cols.begin == 1;
  if (!single) std::fill(sum, sum + k.channels, 0.0f);
  for (int64_t o = rows.begin; o < rows.end; ++o)
    for (int64_t p = cols.begin; p < cols.end; ++p) {
      const int64_t at = (o * k.w.out + p) * k.channels;
      const int64_t up = i - o * k.h.stride + k.h.padding, left = j - p * k.w.stride + k.w.padding;
      const auto here = static_cast<uint8_t>(up * k.w.kernel + left);
      if (single) return take<true>(dy + at, place + at, here, dx, k.channels);
      take<false>(dy + at, place + at, here, sum, k.channels);
    }
  convert(sum, dx, k.channels);
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
            uint8_t* place = k.place + to + from;  // a local: stores of bytes may be to k for all the compiler knows
#pragma omp simd
            for (int64_t c = 0; c < n; ++c) place[c] = static_cast<uint8_t>(best.place[c]);
          }
        }
      }
    });
  });
}

void run(const MaxPoolBwd& k, Cpu, Stream&) {
  std::vector<Range> cols;
  for (int64_t j = 0; j < k.w.in; ++j) cols.push_back(outputs_of(k.w, j));
  const int64_t plane = k.h.out * k.w.out * k.channels;
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.images * k.h.in, row_grain(k.w.in * k.channels, kHeavyGrain), [&](int64_t begin, int64_t end) {
      std::vector<float> sum(static_cast<size_t>(k.channels));
      for (int64_t r = begin; r < end; ++r) {
        const int64_t i = r % k.h.in, image = r / k.h.in * plane;
        const Range rows = outputs_of(k.h, i);
        T* dx = static_cast<T*>(k.dx) + r * k.w.in * k.channels;
        for (int64_t j = 0; j < k.w.in; ++j)
          pixel_gradient(k, static_cast<const T*>(k.dy) + image, k.place + image, i, j, rows,
                         cols[static_cast<size_t>(j)], sum.data(), dx + j * k.channels);
      }
    });
  });
}

}  // namespace tpo
