#include <cstring>

#include "core/kernels/basic.h"
#include "core/parallel_for.h"
#include "core/stream.h"

namespace tpo {

namespace {
constexpr int64_t kGrain = 1 << 18;  // bytes; below that a second thread costs more than it brings
}

void run(const CopyBytes& k, Cpu, Stream&) {
  parallel_for(k.bytes, kGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<char*>(k.dst) + begin, static_cast<const char*>(k.src) + begin,
                static_cast<size_t>(end - begin));
  });
}

void run(const FillZero& k, Cpu, Stream&) {
  parallel_for(k.bytes, kGrain, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<char*>(k.dst) + begin, 0, static_cast<size_t>(end - begin));
  });
}

}  // namespace tpo
