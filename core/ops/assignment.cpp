#include "core/ops/assignment.h"

#include <cmath>
#include <limits>

#include "core/kernels/assignment.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

void check_values(const Tensor& costs, const Tensor& counts) {
  if (costs.device() != Device::kCpu) return;
  const int64_t B = costs.dim(0), Q = costs.dim(1), T = costs.dim(2);
  with_storage(costs.dtype(), [&]<class S>() {
    const S* cost = costs.data<S>();
    for (int64_t b = 0; b < B; ++b) {
      const int32_t n = i32(counts)[b];
      check<DataError>(n >= 0 && n <= T, "[hungarian_match] counts[", b, "] is ", n, ", must be in 0..", T);
      for (int64_t q = 0; q < Q; ++q)
        for (int64_t t = 0; t < n; ++t)
          check<DataError>(std::isfinite(widen(cost[(b * Q + q) * T + t])), "[hungarian_match] cost of batch ", b,
                           ", query ", q, ", target ", t, " is ", widen(cost[(b * Q + q) * T + t]));
    }
  });
}

}  // namespace

Matching hungarian_match(const Tensor& costs, const Tensor& counts) {
  check_float("hungarian_match", costs, "costs");
  check_i32_vector("hungarian_match", counts, "counts");
  check_shape(costs.rank() == 3 && counts.dim(0) == costs.dim(0), "[hungarian_match] costs ", costs.shape(),
              " must be (B, Q, T), counts ", counts.shape(), " (B)");
  const int64_t B = costs.dim(0), Q = costs.dim(1), T = costs.dim(2);
  check_shape((Q >= 1 || T == 0) && B * Q <= std::numeric_limits<int32_t>::max(), "[hungarian_match] costs ",
              costs.shape(), " have no query for a target, or more rows than an i32 counts");
  check_values(costs, counts);
  const auto whole = [](const Shape& s) { return Tensor::empty(s, DType::kI32); };
  Matching m{whole({B, T}), whole({B, Q}), whole({B * T})};
  const auto out = [](const Tensor& t) { return static_cast<int32_t*>(t.raw()); };
  HungarianMatch k{raw(costs), i32(counts), out(m.query), out(m.target), out(m.row), nullptr, B, Q, T, costs.dtype()};
  const Tensor scratch = Tensor::empty({B, k.scratch_words()}, DType::kI64);  // eight bytes a word
  k.scratch = static_cast<double*>(scratch.raw());
  launch(k);
  record_data("hungarian_match");
  return m;
}

Tensor match_labels(const Matching& matching, const Tensor& classes, int32_t background) {
  check_shape(classes.defined() && classes.dtype() == DType::kI32 && classes.shape() == matching.query.shape(),
              "[match_labels] classes must be i32 of the matching's (B, T)");
  const int64_t B = matching.target.dim(0), Q = matching.target.dim(1), T = classes.dim(1);
  Tensor labels = Tensor::empty({B * Q}, DType::kI32);
  launch(MatchLabels{i32(matching.target), i32(classes), static_cast<int32_t*>(labels.raw()), B, Q, T, background});
  record_data("match_labels");
  return labels;
}

}  // namespace tpo
