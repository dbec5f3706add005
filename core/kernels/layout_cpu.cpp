#include <algorithm>
#include <cstring>

#include "core/kernels/layout.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/simd.h"
#include "core/stream.h"

namespace tpo {

void run(const Transpose& k, Cpu, Stream&) {
  constexpr int64_t kTile = 8;   // rows and columns turned in registers
  constexpr int64_t kBand = 64;  // columns: a band of rows fills whole cache lines of y before they are evicted
  parallel_for((k.cols + kBand - 1) / kBand, row_grain(kBand * k.rows, kLightGrain), [&](int64_t first, int64_t last) {
    for (int64_t band = first; band < last; ++band) {
      const int64_t c_end = std::min(k.cols, (band + 1) * kBand);
      for (int64_t r = 0; r < k.rows; r += kTile) {
        const int64_t r_end = std::min(k.rows, r + kTile);
        for (int64_t c = band * kBand; c < c_end; c += kTile) {
          if (r + kTile <= k.rows && c + kTile <= c_end) {
            simd::transpose8(k.x + r * k.cols + c, k.cols, k.y + c * k.rows + r, k.rows);
            continue;
          }
          for (int64_t j = c; j < std::min(c_end, c + kTile); ++j)
            for (int64_t i = r; i < r_end; ++i) k.y[j * k.rows + i] = k.x[i * k.cols + j];
        }
      }
    }
  });
}

// One run of p * C contiguous elements is the unit on both sides.
void run(const Patchify& k, Cpu, Stream&) {
  const int64_t down = k.height / k.patch, across = k.width / k.patch, run_length = k.patch * k.channels;
  const int64_t lines = k.images * k.frames * k.height;  // image lines of `across` runs
  const size_t bytes = static_cast<size_t>(run_length) * sizeof(float);
  parallel_for(lines, row_grain(k.width * k.channels, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t y = line % k.height, frame = line / k.height;  // frames of all images; tubelet divides T
      const int64_t block = (frame / k.tubelet * down + y / k.patch) * across;
      const int64_t inside = (frame % k.tubelet * k.patch + y % k.patch) * run_length;
      for (int64_t d = 0; d < across; ++d) {
        const int64_t image_at = (line * across + d) * run_length;
        const int64_t patch_at = (block + d) * k.tubelet * k.patch * run_length + inside;
        const int64_t from = k.inverse ? patch_at : image_at, to = k.inverse ? image_at : patch_at;
        std::memcpy(k.dst + to, k.src + from, bytes);
      }
    }
  });
}

}  // namespace tpo
