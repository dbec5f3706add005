#include "core/ops/pointwise.h"
#include "core/ops/segment.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_segment_cases(CaseList&);

namespace {

struct Packed {
  std::vector<int32_t> cu;
  int64_t cols;
  Size size = Size::kSmall;
};

enum class Kind { kSum, kMean, kMax };

Ref reduced(const Ref& x, const Ref& cu, Kind kind) {
  Ref y({cu.shape[0] - 1, x.cols()});
  for (int64_t s = 0; s < y.rows(); ++s)
    for (int64_t c = 0; c < x.cols(); ++c) {
      const auto first = static_cast<int64_t>(cu[s]), last = static_cast<int64_t>(cu[s + 1]);
      double& out = y.at(s, c);
      for (int64_t n = first; n < last; ++n)
        out = kind == Kind::kMax ? (n == first ? x.at(n, c) : std::max(out, x.at(n, c))) : out + x.at(n, c);
      if (kind == Kind::kMean && last > first) out /= static_cast<double>(last - first);
    }
  return y;
}

// Rows of a column differ by 1/64 at least: finite differences do not change which one is the maximum, in bf16 as long
// as there are 256 rows at most. All are negative, so that the 0 of an empty segment is no bound for the others.
Tensor distinct_columns(Rand& r, int64_t rows, int64_t cols) {
  std::vector<float> v(static_cast<size_t>(rows * cols));
  for (int64_t c = 0; c < cols; ++c) {
    const Tensor order = r.distinct(rows, rows);
    for (int64_t n = 0; n < rows; ++n) {
      const int32_t place = order.device() == Device::kCpu ? order.data<int32_t>()[n] : 0;
      v[static_cast<size_t>(n * cols + c)] = static_cast<float>(place - rows) / 64;
    }
  }
  return Tensor::from(v, {rows, cols});
}

void add_segments(CaseList& list, const Packed& d) {
  struct Op {
    const char* name;
    Tensor (*op)(const Tensor&, const Tensor&);
    Kind kind;
  };
  const int64_t rows = d.cu.back();
  for (const Op& op : {Op{"segment_sum", segment_sum, Kind::kSum},
                       {"segment_mean", segment_mean, Kind::kMean},
                       {"segment_max", segment_max, Kind::kMax}})
    list.add(
        cat(op.name, "/", d.cu.size() - 1, "_", rows, "x", d.cols),
        [=](Rand& r) {
          const bool exact = op.kind == Kind::kMax;
          return OpCase{
              .in = {exact && d.size != Size::kBench ? distinct_columns(r, rows, d.cols) : r.normal({rows, d.cols}),
                     r.of(d.cu)},
              .run = [=](Inputs v) { return op.op(v[0], v[1]); },
              .ref = [=](RefInputs v) { return reduced(v[0], v[1], op.kind); },
              .grads = {0},
              .tol = exact ? 0 : sum_tolerance(rows),
              .bf16_stores = exact ? 0 : 1};
        },
        d.size, op.kind != Kind::kMax || rows <= 256);
}

struct Scan {
  Shape shape;
  Size size = Size::kSmall;
};

// x seen as (outer, length, inner), summed along the middle.
Ref scanned(const Ref& x, int64_t length, int64_t inner, bool exclusive) {
  Ref y(x.shape);
  for (int64_t at = 0; at < x.shape.numel(); ++at) {
    const int64_t i = at / inner % length;
    for (int64_t j = 0; j < i + (exclusive ? 0 : 1); ++j) y[at] += x[at + (j - i) * inner];
  }
  return y;
}

void add_cumsum(CaseList& list, const Scan& d, Cumulate kind, bool rows) {
  const bool exclusive = kind == Cumulate::kExclusive;
  const int64_t length = rows ? d.shape[0] : d.shape[-1], inner = rows ? d.shape.numel() / d.shape[0] : 1;
  list.add(
      cat(rows ? "cumsum_rows/" : "cumsum_last/", exclusive ? "exclusive_" : "", d.shape),
      [=](Rand& r) {  // one sign: the sums are of the size of their terms
        return OpCase{.in = {r.uniform(d.shape, 0, 1)},
                      .run =
                          [=](Inputs v) {  // the gradient arrives in memory of its own and is summed in place
                            const Tensor y = rows ? cumsum_rows(v[0], kind) : cumsum_last(v[0], kind);
                            return scale(y, 2);
                          },
                      .ref =
                          [=](RefInputs v) {
                            Ref y = scanned(v[0], length, inner, exclusive);
                            for (double& e : y.v) e *= 2;
                            return y;
                          },
                      .grads = {0},
                      .tol = sum_tolerance(length)};  // doubling is exact
      },
      d.size);
}

}  // namespace

void add_segment_cases(CaseList& list) {
  std::vector<int32_t> even(65);
  for (size_t s = 0; s < even.size(); ++s) even[s] = static_cast<int32_t>(64 * s);
  for (const Packed& d : {Packed{{0, 1}, 1},
                          {{0}, 3},
                          {{0, 0, 3, 3, 10, 11, 11}, 7},
                          {{0, 100, 101, 101, 251}, 1031, Size::kLarge},
                          {even, 1024, Size::kBench}})
    add_segments(list, d);
  for (const Scan& d : {Scan{{1, 1}}, {{7, 13}}, {{5, 3, 2}}, {{67, 601}, Size::kLarge}, {{1024, 1024}, Size::kBench}})
    for (const Cumulate kind : {Cumulate::kInclusive, Cumulate::kExclusive})
      for (const bool rows : {false, true}) add_cumsum(list, d, kind, rows);
}

}  // namespace tpo::optest
