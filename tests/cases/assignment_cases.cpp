#include <algorithm>
#include <limits>

#include "core/ops/assignment.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_assignment_cases(CaseList&);

namespace {

struct Dims {
  int64_t B, Q, T;
  Size size = Size::kSmall;
};

// The rows of `few` get columns one after the other, each along the cheapest path of exchanges, found by relaxing every
// edge until nothing improves (Bellman and Ford): no prices, unlike the kernel. cost(i, j), rows <= cols.
template <class CostOf>
std::vector<int64_t> assignment(int64_t rows, int64_t cols, const CostOf& cost) {
  std::vector<int64_t> row_of(static_cast<size_t>(cols), -1), from(static_cast<size_t>(cols));
  for (int64_t start = 0; start < rows; ++start) {
    std::vector<double> dist(static_cast<size_t>(cols), std::numeric_limits<double>::infinity());
    for (int64_t j = 0; j < cols; ++j) dist[static_cast<size_t>(j)] = cost(start, j), from[static_cast<size_t>(j)] = -1;
    for (bool better = true; better;) {
      better = false;
      for (int64_t a = 0; a < cols; ++a) {
        const int64_t row = row_of[static_cast<size_t>(a)];
        for (int64_t j = 0; row >= 0 && j < cols; ++j) {
          const double d = dist[static_cast<size_t>(a)] - cost(row, a) + cost(row, j);
          if (d >= dist[static_cast<size_t>(j)] - 1e-12) continue;
          dist[static_cast<size_t>(j)] = d, from[static_cast<size_t>(j)] = a, better = true;
        }
      }
    }
    int64_t at = -1;
    for (int64_t j = 0; j < cols; ++j)
      if (row_of[static_cast<size_t>(j)] < 0 &&
          (at < 0 || dist[static_cast<size_t>(j)] < dist[static_cast<size_t>(at)]))
        at = j;
    for (; from[static_cast<size_t>(at)] >= 0; at = from[static_cast<size_t>(at)])
      row_of[static_cast<size_t>(at)] = row_of[static_cast<size_t>(from[static_cast<size_t>(at)])];
    row_of[static_cast<size_t>(at)] = start;
  }
  return row_of;
}

Ref reference(const Ref& costs, const Ref& counts) {
  const int64_t B = costs.shape[0], Q = costs.shape[1], T = costs.shape[2];
  Ref y({B, T});
  std::fill(y.v.begin(), y.v.end(), -1);
  for (int64_t b = 0; b < B; ++b) {
    const auto n = static_cast<int64_t>(counts[b]);
    const auto at = [&](int64_t q, int64_t t) { return costs[(b * Q + q) * T + t]; };
    if (n <= Q) {
      const auto target_of = assignment(n, Q, [&](int64_t t, int64_t q) { return at(q, t); });
      for (int64_t q = 0; q < Q; ++q)
        if (target_of[static_cast<size_t>(q)] >= 0) y.at(b, target_of[static_cast<size_t>(q)]) = static_cast<double>(q);
    } else {
      const auto query_of = assignment(Q, n, at);
      for (int64_t t = 0; t < n; ++t) y.at(b, t) = static_cast<double>(query_of[static_cast<size_t>(t)]);
    }
  }
  return y;
}

// A hidden matching, one half dearer everywhere else, under prices of queries and targets that hide it; partners have
// negative prices, the others positive ones. The best matching stays the hidden one under bf16 rounding.
Tensor planted(Rand& r, const Dims& d, const std::vector<int32_t>& counts) {
  const auto unit = [&] { return static_cast<float>(r.below(1 << 16)) * 0x1p-16f; };
  std::vector<float> v;
  for (int64_t b = 0; b < d.B; ++b) {
    const int64_t n = counts[static_cast<size_t>(b)], pairs = std::min(n, d.Q);
    std::vector<int64_t> query(static_cast<size_t>(d.Q)), target(static_cast<size_t>(n));
    std::vector<float> u(query.size()), w(target.size());
    for (auto* side : {&query, &target}) {
      for (size_t i = 0; i < side->size(); ++i) (*side)[i] = static_cast<int64_t>(i);
      for (size_t i = side->size(); i > 1; --i) std::swap((*side)[i - 1], (*side)[r.below(i)]);
    }
    for (size_t i = 0; i < u.size(); ++i)
      u[static_cast<size_t>(query[i])] = (i < static_cast<size_t>(pairs) ? -1.0f : 1.0f) * unit();
    for (size_t i = 0; i < w.size(); ++i)
      w[static_cast<size_t>(target[i])] = (i < static_cast<size_t>(pairs) ? -1.0f : 1.0f) * unit();
    const size_t base = v.size();
    for (int64_t q = 0; q < d.Q; ++q)
      for (int64_t t = 0; t < d.T; ++t)
        v.push_back(t < n ? u[static_cast<size_t>(q)] + w[static_cast<size_t>(t)] + 0.5f + unit() : 0);
    for (int64_t i = 0; i < pairs; ++i) {
      const int64_t q = query[static_cast<size_t>(i)], t = target[static_cast<size_t>(i)];
      v[base + static_cast<size_t>(q * d.T + t)] = u[static_cast<size_t>(q)] + w[static_cast<size_t>(t)];
    }
  }
  return Tensor::from(v, {d.B, d.Q, d.T});
}

}  // namespace

void add_assignment_cases(CaseList& list) {
  for (const Dims& d : {Dims{1, 1, 1},
                        {5, 5, 4},
                        {3, 4, 7},
                        {2, 3, 0},
                        {4, 100, 23, Size::kLarge},
                        {3, 17, 53, Size::kLarge},
                        {16, 100, 32, Size::kBench}})
    list.add(
        cat("hungarian_match/", d.B, "x", d.Q, "x", d.T),
        [=](Rand& r) {
          std::vector<int32_t> counts;  // T, T - 1, .., 0, T, ..
          for (int64_t b = 0; b < d.B; ++b) counts.push_back(static_cast<int32_t>(d.T - b % (d.T + 1)));
          return OpCase{.in = {planted(r, d, counts), r.of(counts)},
                        .run = [](Inputs v) { return hungarian_match(v[0], v[1]).query; },
                        .ref = [](RefInputs v) { return reference(v[0], v[1]); },
                        .bf16_stores = 0};  // exact
        },
        d.size);
}

}  // namespace tpo::optest
