#include "core/ops/pool.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_pool_cases(CaseList&);

namespace {

enum class Kind { kMax, kMean, kMeanOfExisting };

struct Dims {
  Shape in;
  PoolSpec spec;
  int64_t height, width;  // of the result
  Size size = Size::kSmall;
};

// Values that differ by 1/16 at least inside every 8 x 8 window, so that a maximum is far from a tie, also in bf16: a
// permutation of 64 values tiles each plane.
Tensor distinct_in_windows(Rand& r, const Shape& s) {
  std::vector<float> v(static_cast<size_t>(s.numel()));
  for (int64_t b = 0; b < s[0]; ++b)
    for (int64_t c = 0; c < s[3]; ++c) {
      const auto times = static_cast<int64_t>(2 * r.below(32) + 1), shift = static_cast<int64_t>(r.below(64));
      for (int64_t i = 0; i < s[1]; ++i)
        for (int64_t j = 0; j < s[2]; ++j) {
          const int64_t rank = ((i % 8 * 8 + j % 8) * times + shift) % 64;
          v[static_cast<size_t>(((b * s[1] + i) * s[2] + j) * s[3] + c)] = static_cast<float>(rank - 32) / 16;
        }
    }
  return Tensor::from(v, s);
}

Ref reference(const Ref& x, const Dims& d, Kind kind) {
  const int64_t B = x.shape[0], H = x.shape[1], W = x.shape[2], C = x.shape[3];
  const auto& [kernel, stride, padding, ceil_mode] = d.spec;
  Ref y({B, d.height, d.width, C});
  for (int64_t at = 0; at < y.shape.numel(); ++at) {
    const int64_t c = at % C, p = at / C % d.width, o = at / C / d.width % d.height, b = at / C / d.width / d.height;
    double sum = 0, most = -1e30, pixels = 0, places = 0;
    for (int64_t u = 0; u < kernel[0]; ++u)
      for (int64_t v = 0; v < kernel[1]; ++v) {
        const int64_t i = o * stride[0] - padding[0] + u, j = p * stride[1] - padding[1] + v;
        places += i < H + padding[0] && j < W + padding[1];
        if (i < 0 || i >= H || j < 0 || j >= W) continue;
        const double value = x[((b * H + i) * W + j) * C + c];
        sum += value, most = std::max(most, value), pixels += 1;
      }
    y[at] = kind == Kind::kMax ? most : sum / (kind == Kind::kMean ? places : pixels);
  }
  return y;
}

void add(CaseList& list, const Dims& d, Kind kind) {
  const auto& [kernel, stride, padding, ceil_mode] = d.spec;
  const char* name = kind == Kind::kMax ? "max_pool2d/" : kind == Kind::kMean ? "avg_pool2d/" : "avg_pool2d/existing_";
  list.add(
      cat(name, d.in, "_k", kernel[0], "x", kernel[1], "_s", stride[0], "x", stride[1], "_p", padding[0], "x",
          padding[1], ceil_mode ? "_ceil" : ""),
      [=](Rand& r) {
        return OpCase{.in = {kind == Kind::kMax ? distinct_in_windows(r, d.in) : r.uniform(d.in, 0.5f, 1.5f)},
                      .run =
                          [=](Inputs v) {
                            if (kind == Kind::kMax) return max_pool2d(v[0], d.spec);
                            return avg_pool2d(v[0], d.spec, kind == Kind::kMean);
                          },
                      .ref = [=](RefInputs v) { return reference(v[0], d, kind); },
                      .grads = {0},
                      // Two divisors, and a product and a sum for each input, summed by axis.
                      .tol = kind == Kind::kMax ? 0 : sum_tolerance(2 + 2 * (d.spec.kernel[0] + d.spec.kernel[1]))};
      },
      d.size);
}

}  // namespace

void add_pool_cases(CaseList& list) {
  for (const Dims& d : {Dims{{1, 1, 1, 1}, {{1, 1}, {1, 1}}, 1, 1},
                        {{2, 4, 6, 3}, {{2, 2}, {2, 2}}, 2, 3},
                        {{1, 7, 5, 9}, {{3, 3}, {2, 2}, {1, 1}}, 4, 3},        // windows overlap
                        {{1, 8, 7, 2}, {{3, 2}, {2, 3}, {1, 0}, true}, 5, 3},  // last windows reach out
                        {{1, 5, 5, 3}, {{4, 2}, {3, 3}, {2, 1}, true}, 3, 2},  // a last column of windows is dropped
                        {{1, 7, 7, 2}, {{2, 1}, {3, 3}}, 2, 3},                // pixels that no window sees
                        {{1, 2, 2, 1}, {{3, 3}, {2, 2}, {0, 0}, true}, 1, 1},  // smaller than the kernel
                        {{2, 37, 23, 131}, {{3, 5}, {2, 1}, {1, 2}}, 19, 23, Size::kLarge},
                        {{4, 256, 256, 144}, {{2, 2}, {2, 2}}, 128, 128, Size::kBench},
                        {{1, 128, 128, 256}, {{3, 3}, {2, 2}, {1, 1}}, 64, 64, Size::kBench}})
    for (const Kind kind : {Kind::kMax, Kind::kMean, Kind::kMeanOfExisting}) add(list, d, kind);
}

}  // namespace tpo::optest
