#include <algorithm>
#include <cstring>

#include "core/kernels/pointwise_loop.h"
#include "core/kernels/window.h"
#include "core/stream.h"

namespace tpo {

void run(const Window& k, Cpu, Stream&) {
  const int64_t w = k.window, pixel = width_of(k.dtype) * k.channels;  // bytes
  const auto* src = static_cast<const char*>(k.src);
  auto* dst = static_cast<char*>(k.dst);
  const int64_t lines = k.inverse ? k.height : k.down() * w;  // of one image; padding lines are written, never read
  parallel_for(k.images * lines, row_grain(k.width * k.channels, kLightGrain), [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t image = line / lines, i = line % lines;
      for (int64_t j = 0; j < k.width; j += w) {
        const int64_t there = i < k.height ? std::min(w, k.width - j) : 0;  // pixels of the image in this run
        const int64_t in_image = ((image * k.height + i) * k.width + j) * pixel;
        const int64_t in_window = (((image * k.down() + i / w) * k.across() + j / w) * w + i % w) * w * pixel;
        const auto bytes = static_cast<size_t>(there * pixel);
        if (k.inverse) {
          std::memcpy(dst + in_image, src + in_window, bytes);
          continue;
        }
        if (there > 0) std::memcpy(dst + in_window, src + in_image, bytes);
        std::memset(dst + in_window + bytes, 0, static_cast<size_t>((w - there) * pixel));
      }
    }
  });
}

}  // namespace tpo
