#include "core/ops/position.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_position_cases(CaseList&);

namespace {

constexpr double kTwoPi = 6.283185307179586;

double code(int64_t p, int64_t n, int64_t f, const SineSpec& s) {
  double at = s.first + static_cast<double>(p);
  if (s.unit_scale) at = at / (s.first + static_cast<double>(n) - 1 + 1e-6) * kTwoPi;
  at /= std::pow(s.temperature, static_cast<double>(f - f % 2) / static_cast<double>(s.features));
  return f % 2 == 0 ? std::sin(at) : std::cos(at);
}

Ref grid_codes(int64_t height, int64_t width, const SineSpec& s) {
  Ref y({height, width, 2 * s.features});
  int64_t at = 0;
  for (int64_t i = 0; i < height; ++i)
    for (int64_t j = 0; j < width; ++j)
      for (int64_t f = 0; f < 2 * s.features; ++f)
        y[at++] = f < s.features ? code(i, height, f, s) : code(j, width, f - s.features, s);
  return y;
}

Ref fourier(const Ref& points, const Ref& frequencies) {
  const int64_t F = frequencies.cols();
  Ref y({points.rows(), 2 * F});
  for (int64_t n = 0; n < points.rows(); ++n)
    for (int64_t f = 0; f < F; ++f) {
      double a = 0;
      for (int64_t d = 0; d < points.cols(); ++d) a += kTwoPi * (2 * points.at(n, d) - 1) * frequencies.at(d, f);
      y.at(n, f) = std::sin(a);
      y.at(n, F + f) = std::cos(a);
    }
  return y;
}

struct Grid {
  int64_t height, width;
  SineSpec spec;
  Size size = Size::kSmall;
};

struct Points {
  int64_t n, dims, features;
  Size size = Size::kSmall;
};

// Sines good to 1e-7, and for bf16 one rounding of 2^-9; the maximum is near 1.
void add_sine(CaseList& list, const Grid& g, DType dtype) {
  const double tol = dtype == DType::kF32 ? 1.7e-7 : 1.0 / 256;
  const std::string spec =
      cat("_f", g.spec.features, "_from", g.spec.first, g.spec.unit_scale ? "" : "_raw", "_", dtype);
  list.add(
      cat("sine_encoding/", g.width, spec),
      [=](Rand&) {
        return OpCase{.in = {},
                      .run = [=](Inputs) { return sine_encoding(g.width, g.spec, dtype); },
                      .ref =
                          [=](RefInputs) {
                            Ref y({g.width, g.spec.features});
                            for (int64_t i = 0; i < y.shape.numel(); ++i)
                              y[i] = code(i / y.cols(), g.width, i % y.cols(), g.spec);
                            return y;
                          },
                      .tol = tol};
      },
      g.size, false);
  list.add(
      cat("sine_encoding_2d/", g.height, "x", g.width, spec),
      [=](Rand&) {
        return OpCase{.in = {},
                      .run = [=](Inputs) { return sine_encoding_2d(g.height, g.width, g.spec, dtype); },
                      .ref = [=](RefInputs) { return grid_codes(g.height, g.width, g.spec); },
                      .tol = tol};
      },
      g.size, false);
}

}  // namespace

void add_position_cases(CaseList& list) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const Grid& g : {Grid{1, 1, {2}},
                          {5, 7, {6, 10000, true, 1}},
                          {3, 11, {10, 20, false, 0}},
                          {37, 61, {66}, Size::kLarge},
                          {256, 256, {128}, Size::kBench}})
      add_sine(list, g, dtype);
  for (const Points& p :
       {Points{1, 1, 1}, {7, 2, 13}, {5, 3, 8}, {1031, 2, 67, Size::kLarge}, {65536, 2, 128, Size::kBench}})
    list.add(
        cat("fourier_encoding/", p.n, "x", p.dims, "x", p.features),
        [=](Rand& r) {
          return OpCase{.in = {r.uniform({p.n, p.dims}, 0, 1), r.normal({p.dims, p.features})},
                        .run = [](Inputs v) { return fourier_encoding(v[0], v[1]); },
                        .ref = [](RefInputs v) { return fourier(v[0], v[1]); },
                        .tol = 1.7e-7};  // angles in double
        },
        p.size, false);
}

}  // namespace tpo::optest
