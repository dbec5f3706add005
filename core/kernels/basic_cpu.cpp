#include <cstring>

#include "core/kernels/basic.h"
#include "core/parallel_for.h"
#include "core/stream.h"

namespace tpo {

namespace {
constexpr int64_t kGrain = 1 << 16;  // elements; below about 256 KiB a second thread costs more than it brings
}

void run(const AddInto& k, Cpu, Stream&) {
  parallel_for(k.n, kGrain, [&](int64_t begin, int64_t end) {
    float* __restrict dst = k.dst;
    const float* __restrict src = k.src;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) dst[i] += src[i];
  });
}

void run(const CopyBytes& k, Cpu, Stream&) {
  parallel_for(k.bytes, 4 * kGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<char*>(k.dst) + begin, static_cast<const char*>(k.src) + begin,
                static_cast<size_t>(end - begin));
  });
}

void run(const FillZero& k, Cpu, Stream&) {
  parallel_for(k.bytes, 4 * kGrain, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<char*>(k.dst) + begin, 0, static_cast<size_t>(end - begin));
  });
}

}  // namespace tpo
