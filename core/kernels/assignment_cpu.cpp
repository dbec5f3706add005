// Minimum-cost assignment: problems of a batch on threads, each as the shared function has it.
#include <algorithm>

#include "core/kernels/assignment.h"
#include "core/parallel_for.h"
#include "core/stream.h"

namespace tpo {

void run(const HungarianMatch& k, Cpu, Stream&) {
  const int64_t work = std::max<int64_t>(1, std::min(k.Q, k.T) * k.Q * k.T);
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.B, std::max<int64_t>(1, 20000 / work), [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) hungarian_match_one<T>(k, b);
    });
  });
}

void run(const MatchLabels& k, Cpu, Stream&) {
  for (int64_t b = 0; b < k.B; ++b) {
    for (int64_t q = 0; q < k.Q; ++q) {
      const int32_t target = k.target_of[b * k.Q + q];
      k.labels[b * k.Q + q] = target < 0 ? k.background : k.classes[b * k.T + target];
    }
  }
}

}  // namespace tpo
