#include "core/kernels/cast.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

void run(const Cast& k, Cpu, Stream&) {
  with_storage(k.from, [&]<class From>() {
    with_storage(k.to, [&]<class To>() {
      for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) {
        const From* src = static_cast<const From*>(k.src);
        To* dst = static_cast<To*>(k.dst);
        if (!k.accumulate) return convert(src + begin, dst + begin, end - begin);
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) dst[i] = narrow<To>(widen(dst[i]) + widen(src[i]));
      });
    });
  });
}

}  // namespace tpo
