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

constexpr int64_t kTile = 8;   // rows and columns turned in registers
constexpr int64_t kSide = 64;  // of the blocks turned in scratch, from which y gets whole cache lines

// Rows [r, r_end) and columns [c, c_end) of one matrix, at most kSide each.
template <class T>
void transpose_block(const T* x, T* y, int64_t rows, int64_t cols, int64_t r, int64_t r_end, int64_t c, int64_t c_end) {
  T turned[kSide * kSide];
  const int64_t height = r_end - r, width = c_end - c;
  for (int64_t i = 0; i < height; i += kTile)
    for (int64_t j = 0; j < width; j += kTile) {
      const T* from = x + (r + i) * cols + c + j;
      T* to = turned + j * kSide + i;
      if (i + kTile <= height && j + kTile <= width) {
        transpose8(from, cols, to, kSide);
        continue;
      }
      for (int64_t q = 0; q < std::min(kTile, width - j); ++q)
        for (int64_t p = 0; p < std::min(kTile, height - i); ++p) to[q * kSide + p] = from[p * cols + q];
    }
  for (int64_t j = 0; j < width; ++j) std::copy_n(turned + j * kSide, height, y + (c + j) * rows + r);
}

template <class T>
void transpose(const Transpose& k) {
  const int64_t bands = (k.cols + kSide - 1) / kSide;
  parallel_for(k.batch * bands, row_grain(kSide * k.rows, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t at = p / bands * k.rows * k.cols, c = p % bands * kSide;
      for (int64_t r = 0; r < k.rows; r += kSide)
        transpose_block(static_cast<const T*>(k.x) + at, static_cast<T*>(k.y) + at, k.rows, k.cols, r,
                        std::min(k.rows, r + kSide), c, std::min(k.cols, c + kSide));
    }
  });
}

}  // namespace

void run(const Transpose& k, Cpu, Stream&) {
  if (k.dtype == DType::kBF16) return transpose<uint16_t>(k);
  transpose<float>(k);
}

void run(const SwapMiddle& k, Cpu, Stream&) {
  const auto bytes = static_cast<size_t>(k.run_bytes);
  parallel_for(k.a * k.c, row_grain(k.b * k.run_bytes / 4, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {  // p = a * C + c: the runs of y that lie together
      const char* x = static_cast<const char*>(k.x) + (p / k.c * k.b * k.c + p % k.c) * k.run_bytes;
      char* y = static_cast<char*>(k.y) + p * k.b * k.run_bytes;
      for (int64_t b = 0; b < k.b; ++b) std::memcpy(y + b * k.run_bytes, x + b * k.c * k.run_bytes, bytes);
    }
  });
}

void run(const CopyColumns& k, Cpu, Stream&) {
  const auto bytes = static_cast<size_t>(k.bytes);
  parallel_for(k.rows, row_grain(k.bytes / 4, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      char* dst = static_cast<char*>(k.dst) + r * k.dst_row;
      if (k.src != nullptr) {
        std::memcpy(dst, static_cast<const char*>(k.src) + r * k.src_row, bytes);
      } else {
        std::memset(dst, 0, bytes);
      }
    }
  });
}

// One run of p * C contiguous elements is the unit on both sides.
void run(const Patchify& k, Cpu, Stream&) {
  const int64_t down = k.height / k.patch, across = k.width / k.patch,
                run_bytes = k.patch * k.channels * width_of(k.dtype);
  const int64_t lines = k.images * k.frames * k.height;  // image lines of `across` runs and a rest
  const int64_t line_bytes = k.width * k.channels * width_of(k.dtype), rest_bytes = line_bytes - across * run_bytes;
  char* dst = static_cast<char*>(k.dst);
  const char* src = static_cast<const char*>(k.src);
  parallel_for(lines, row_grain(k.width * k.channels, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t y = line % k.height, frame = line / k.height;  // frames of all images; tubelet divides T
      const bool whole = y < down * k.patch;
      if (k.inverse && (!whole || rest_bytes > 0)) {
        const int64_t zeros = whole ? rest_bytes : line_bytes;
        std::memset(dst + (line + 1) * line_bytes - zeros, 0, static_cast<size_t>(zeros));
      }
      if (!whole) continue;
      const int64_t block = (frame / k.tubelet * down + y / k.patch) * across;
      const int64_t inside = (frame % k.tubelet * k.patch + y % k.patch) * run_bytes;
      for (int64_t d = 0; d < across; ++d) {
        const int64_t image_at = line * line_bytes + d * run_bytes;
        const int64_t patch_at = (block + d) * k.tubelet * k.patch * run_bytes + inside;
        const int64_t from = k.inverse ? patch_at : image_at, to = k.inverse ? image_at : patch_at;
        std::memcpy(dst + to, src + from, static_cast<size_t>(run_bytes));
      }
    }
  });
}

}  // namespace tpo
