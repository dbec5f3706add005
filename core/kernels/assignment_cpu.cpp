// Minimum-cost assignment: problems of a batch on threads, each as the shared function has it.
#include <algorithm>
#include <cmath>

#include "core/kernels/assignment.h"
#include "core/parallel_for.h"
#include "core/stream.h"

namespace tpo {

namespace {

template <class T>
bool all_finite(const T* cost, int64_t queries, int64_t stride, int64_t targets) {
  for (int64_t q = 0; q < queries; ++q)
    for (int64_t t = 0; t < targets; ++t)
      if (!std::isfinite(widen(cost[q * stride + t]))) return false;
  return true;
}

template <class T>
void match_one(const HungarianMatch& k, int64_t b) {
  const T* cost = static_cast<const T*>(k.costs) + b * k.Q * k.T;
  const int64_t n = k.counts[b];
  int32_t *query_of = k.query_of + b * k.T, *target_of = k.target_of + b * k.Q, *row_of = k.row_of + b * k.T;
  std::fill(query_of, query_of + k.T, -1);
  std::fill(target_of, target_of + k.Q, -1);
  if (all_finite(cost, k.Q, k.T, n)) {
    const bool by_target = n <= k.Q;  // the smaller side are the rows
    const auto rows = static_cast<int32_t>(std::min(n, k.Q)), cols = static_cast<int32_t>(std::max(n, k.Q));
    const auto s = AssignScratch::at(k.scratch + b * k.scratch_words(), rows, cols);
    assign_rows(cost, by_target ? 1 : k.T, by_target ? k.T : 1, rows, cols, s);
    for (int32_t j = 0; j < cols; ++j) {
      if (s.row_of[j] < 0) continue;
      const int32_t query = by_target ? j : s.row_of[j], target = by_target ? s.row_of[j] : j;
      query_of[target] = query;
      target_of[query] = target;
    }
  }
  for (int64_t t = 0; t < k.T; ++t) row_of[t] = static_cast<int32_t>(b * k.Q) + std::max(query_of[t], 0);
}

}  // namespace

void run(const HungarianMatch& k, Cpu, Stream&) {
  const int64_t work = std::max<int64_t>(1, std::min(k.Q, k.T) * k.Q * k.T);
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.B, std::max<int64_t>(1, 20000 / work), [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) match_one<T>(k, b);
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
