#include <algorithm>
#include <cstring>

#include "core/kernels/layout.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/simd.h"
#include "core/stream.h"

namespace tpo {

namespace {

using simd::transpose8;

// y[j * y_row + i] = x[i * x_row + j] for i, j in 0..7.
#ifdef TPO_AVX2
void transpose8(const uint16_t* x, int64_t x_row, uint16_t* y, int64_t y_row) {
  __m128i r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i * x_row));
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm_unpacklo_epi16(r[i], r[i + 1]);
    t[i + 1] = _mm_unpackhi_epi16(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {  // columns 4 j + (0, 1) and (2, 3) of rows i to i + 3
      r[i + 2 * j] = _mm_unpacklo_epi32(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1] = _mm_unpackhi_epi32(t[i + j], t[i + j + 2]);
    }
  for (int i = 0; i < 4; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + 2 * i * y_row), _mm_unpacklo_epi64(r[i], r[i + 4]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + (2 * i + 1) * y_row), _mm_unpackhi_epi64(r[i], r[i + 4]));
  }
}
#else
void transpose8(const uint16_t* x, int64_t x_row, uint16_t* y, int64_t y_row) {
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) y[j * y_row + i] = x[i * x_row + j];
}
#endif

template <class T>
void transpose(const Transpose& k) {
  constexpr int64_t kTile = 8;   // rows and columns turned in registers
  constexpr int64_t kBand = 64;  // columns: a band of rows fills whole cache lines of y before they are evicted
  const T* x = static_cast<const T*>(k.x);
  T* y = static_cast<T*>(k.y);
  parallel_for((k.cols + kBand - 1) / kBand, row_grain(kBand * k.rows, kLightGrain), [&](int64_t first, int64_t last) {
    for (int64_t band = first; band < last; ++band) {
      const int64_t c_end = std::min(k.cols, (band + 1) * kBand);
      for (int64_t r = 0; r < k.rows; r += kTile) {
        const int64_t r_end = std::min(k.rows, r + kTile);
        for (int64_t c = band * kBand; c < c_end; c += kTile) {
          if (r + kTile <= k.rows && c + kTile <= c_end) {
            transpose8(x + r * k.cols + c, k.cols, y + c * k.rows + r, k.rows);
            continue;
          }
          for (int64_t j = c; j < std::min(c_end, c + kTile); ++j)
            for (int64_t i = r; i < r_end; ++i) y[j * k.rows + i] = x[i * k.cols + j];
        }
      }
    }
  });
}

}  // namespace

void run(const Transpose& k, Cpu, Stream&) {
  if (k.dtype == DType::kBF16) return transpose<uint16_t>(k);
  transpose<float>(k);
}

// One run of p * C contiguous elements is the unit on both sides.
void run(const Patchify& k, Cpu, Stream&) {
  const int64_t down = k.height / k.patch, across = k.width / k.patch,
                run_bytes = k.patch * k.channels * width_of(k.dtype);
  const int64_t lines = k.images * k.frames * k.height;  // image lines of `across` runs
  char* dst = static_cast<char*>(k.dst);
  const char* src = static_cast<const char*>(k.src);
  parallel_for(lines, row_grain(k.width * k.channels, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t y = line % k.height, frame = line / k.height;  // frames of all images; tubelet divides T
      const int64_t block = (frame / k.tubelet * down + y / k.patch) * across;
      const int64_t inside = (frame % k.tubelet * k.patch + y % k.patch) * run_bytes;
      for (int64_t d = 0; d < across; ++d) {
        const int64_t image_at = (line * across + d) * run_bytes;
        const int64_t patch_at = (block + d) * k.tubelet * k.patch * run_bytes + inside;
        const int64_t from = k.inverse ? patch_at : image_at, to = k.inverse ? image_at : patch_at;
        std::memcpy(dst + to, src + from, static_cast<size_t>(run_bytes));
      }
    }
  });
}

}  // namespace tpo
