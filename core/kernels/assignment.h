#pragma once
// Minimum-cost assignment of fixed shape, and labels from it. The algorithm is one function over raw arrays with
// bounded scratch, for host and device alike: one problem of a batch is one thread's work.
#include <cstdint>
#include <limits>

#include "core/cost.h"
#include "core/device.h"
#include "core/inline.h"
#include "core/kernels/storage.h"

namespace tpo {

class Stream;

// Scratch and result of assign_rows. u and v are the dual prices: u[i] + v[j] <= cost(i, j), equal where i has j, v <=
// 0, and v = 0 where a column is free: they prove that no assignment costs less.
struct AssignScratch {
  double* u;        // (rows)
  double* v;        // (cols)
  double* dist;     // (cols) length of the shortest path found to a column
  int32_t* from;    // (cols) the column before it on that path, -1 at the start
  int32_t* row_of;  // (cols) out: the row that has this column, -1 if free
  int32_t* done;    // (cols)

  static constexpr int64_t words(int64_t rows, int64_t cols) { return rows + 2 * cols + (3 * cols + 1) / 2; }
  TPO_INLINE static AssignScratch at(double* memory, int64_t rows, int64_t cols) {
    auto* whole = reinterpret_cast<int32_t*>(memory + rows + 2 * cols);
    return {memory, memory + rows, memory + rows + cols, whole, whole + cols, whole + 2 * cols};
  }
};

// Gives every row its own column at the least total cost. Finite costs, rows <= cols.
// Shortest augmenting paths with dual prices, in double: O(rows^2 cols). Of paths of equal length the one to the lowest
// column is taken. Source: Jonker and Volgenant, Computing 38 (1987); Crouse, IEEE TAES 52 (2016), Algorithm 1.
template <class T>
TPO_INLINE void assign_rows(const T* cost, int64_t row_stride, int64_t col_stride, int32_t rows, int32_t cols,
                            const AssignScratch& s) {
  for (int32_t i = 0; i < rows; ++i) s.u[i] = 0;
  for (int32_t j = 0; j < cols; ++j) s.v[j] = 0, s.row_of[j] = -1;
  for (int32_t start = 0; start < rows; ++start) {
    for (int32_t j = 0; j < cols; ++j) s.dist[j] = std::numeric_limits<double>::infinity(), s.done[j] = 0;
    // Dijkstra over columns, from `start` to the nearest free one.
    int32_t row = start, last = -1;
    double length = 0;
    while (row >= 0) {
      int32_t next = 0;
      double best = std::numeric_limits<double>::infinity();
      for (int32_t j = 0; j < cols; ++j) {
        if (s.done[j]) continue;
        const auto c = static_cast<double>(widen(cost[row * row_stride + j * col_stride]));
        const double d = length + (c - s.u[row] - s.v[j]);
        if (d < s.dist[j]) s.dist[j] = d, s.from[j] = last;
        if (s.dist[j] < best) best = s.dist[j], next = j;
      }
      length = best, last = next, row = s.row_of[next];
      s.done[next] = 1;
    }
    s.u[start] += length;
    for (int32_t j = 0; j < cols; ++j) {
      if (!s.done[j] || s.row_of[j] < 0) continue;
      s.v[j] -= length - s.dist[j];
      s.u[s.row_of[j]] += length - s.dist[j];
    }
    for (int32_t j = last; j >= 0;) {  // every column of the path goes to the row before it
      const int32_t before = s.from[j];
      s.row_of[j] = before < 0 ? start : s.row_of[before];
      j = before;
    }
  }
}

// For each b: with n = counts[b] valid columns of costs[b], the assignment of min(Q, n) pairs (query, target) of least
// total cost. query_of[b,t] = the query of target t, or -1; target_of[b,q] the inverse; row_of[b,t] = b Q + query, or
// b Q where there is none: a legal row of (B Q, ..) for a gather. A count outside 0..T or a cost that is not finite: no
// pairs for that b, and nothing outside its rows is touched.
struct HungarianMatch {
  static constexpr const char* kName = "hungarian_match";
  const void* costs;      // (B, Q, T)
  const int32_t* counts;  // (B)
  int32_t* query_of;      // (B, T)
  int32_t* target_of;     // (B, Q)
  int32_t* row_of;        // (B, T)
  double* scratch;        // (B, scratch_words())
  int64_t B, Q, T;
  DType dtype;

  int64_t scratch_words() const { return AssignScratch::words(Q < T ? Q : T, Q < T ? T : Q); }
  // At most: every path may visit every pair. Usually a few percent of that.
  Cost cost() const {
    const int64_t few = Q < T ? Q : T;
    return {5 * B * few * Q * T, width_of(dtype) * B * Q * T + 4 * B, 4 * B * (2 * T + Q)};
  }
};
void run(const HungarianMatch&, Cpu, Stream&);
void run(const HungarianMatch&, Cuda, Stream&);

// Problem b of k.
template <class T>
TPO_INLINE void hungarian_match_one(const HungarianMatch& k, int64_t b) {
  const T* cost = static_cast<const T*>(k.costs) + b * k.Q * k.T;
  const int64_t n = k.counts[b];
  int32_t *query_of = k.query_of + b * k.T, *target_of = k.target_of + b * k.Q, *row_of = k.row_of + b * k.T;
  for (int64_t t = 0; t < k.T; ++t) query_of[t] = -1;
  for (int64_t q = 0; q < k.Q; ++q) target_of[q] = -1;
  bool legal = n >= 0 && n <= k.T;
  for (int64_t q = 0; legal && q < k.Q; ++q)
    for (int64_t t = 0; t < n; ++t) {
      const float c = widen(cost[q * k.T + t]);
      legal = legal && c - c == 0.0f;  // not so for infinities and NaN
    }
  if (legal) {
    const bool by_target = n <= k.Q;  // the smaller side are the rows
    const auto rows = static_cast<int32_t>(by_target ? n : k.Q), cols = static_cast<int32_t>(by_target ? k.Q : n);
    const auto s = AssignScratch::at(k.scratch + b * k.scratch_words(), rows, cols);
    assign_rows(cost, by_target ? 1 : k.T, by_target ? k.T : 1, rows, cols, s);
    for (int32_t j = 0; j < cols; ++j) {
      if (s.row_of[j] < 0) continue;
      const int32_t query = by_target ? j : s.row_of[j], target = by_target ? s.row_of[j] : j;
      query_of[target] = query;
      target_of[query] = target;
    }
  }
  for (int64_t t = 0; t < k.T; ++t) row_of[t] = static_cast<int32_t>(b * k.Q) + (query_of[t] < 0 ? 0 : query_of[t]);
}

// labels[b,q] = classes[b, target_of[b,q]], or background where query q has no target
struct MatchLabels {
  static constexpr const char* kName = "match_labels";
  const int32_t* target_of;  // (B, Q)
  const int32_t* classes;    // (B, T)
  int32_t* labels;           // (B, Q)
  int64_t B, Q, T;
  int32_t background;
  Cost cost() const { return {0, 4 * B * (Q + T), 4 * B * Q}; }
};
void run(const MatchLabels&, Cpu, Stream&);
void run(const MatchLabels&, Cuda, Stream&);

}  // namespace tpo
