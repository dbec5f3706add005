#include "core/ops/resize.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_resize_cases(CaseList&);

namespace {

using Matrix = std::vector<std::vector<double>>;  // [output][input]

double cubic(double d, double a) {
  d = std::fabs(d);
  if (d <= 1) return (a + 2) * d * d * d - (a + 3) * d * d + 1;
  return d < 2 ? a * d * d * d - 5 * a * d * d + 8 * a * d - 4 * a : 0;
}

// Every input's weight in one output of an axis, by the steps of the definition in PyTorch.
std::vector<double> weights(int64_t in, int64_t out, int64_t o, const ResizeSpec& s) {
  std::vector<double> w(static_cast<size_t>(in), 0.0);
  const auto add = [&](int64_t i, double by) {
    w[static_cast<size_t>(std::min(std::max<int64_t>(i, 0), in - 1))] += by;
  };
  const bool linear = s.mode == ResizeMode::kBilinear;
  const double step = s.align_corners ? (out > 1 ? double(in - 1) / double(out - 1) : 0) : double(in) / double(out);
  if (s.mode == ResizeMode::kNearest) {
    add(o * in / out, 1);
  } else if (s.antialias) {
    const double stretch = std::max(1.0, step), centre = step * (double(o) + 0.5);
    double sum = 0;
    for (int64_t i = 0; i < in; ++i) {
      const double d = (double(i) + 0.5 - centre) / stretch;
      sum += w[static_cast<size_t>(i)] = linear ? std::max(0.0, 1 - std::fabs(d)) : cubic(d, -0.5);
    }
    for (double& e : w) e /= sum;
  } else {
    double at = s.align_corners ? step * double(o) : step * (double(o) + 0.5) - 0.5;
    if (linear) at = std::max(at, 0.0);
    const auto i = static_cast<int64_t>(std::floor(at));
    const double t = at - double(i);
    for (int64_t j = linear ? 0 : -1; j < (linear ? 2 : 3); ++j)
      add(i + j, linear ? (j == 0 ? 1 - t : t) : cubic(double(j) - t, -0.75));
  }
  return w;
}

Ref reference(const Ref& x, int64_t height, int64_t width, const ResizeSpec& s) {
  const int64_t B = x.shape[0], H = x.shape[1], W = x.shape[2], C = x.shape[3];
  Ref y({B, height, width, C});
  Matrix across;
  for (int64_t p = 0; p < width; ++p) across.push_back(weights(W, width, p, s));
  for (int64_t o = 0; o < height; ++o) {
    const std::vector<double> down = weights(H, height, o, s);
    for (int64_t i = 0; i < H; ++i)
      for (int64_t p = 0; p < width && down[static_cast<size_t>(i)] != 0; ++p)
        for (int64_t j = 0; j < W; ++j) {
          const double w = down[static_cast<size_t>(i)] * across[static_cast<size_t>(p)][static_cast<size_t>(j)];
          for (int64_t b = 0; b < B && w != 0; ++b)
            for (int64_t c = 0; c < C; ++c)
              y[((b * height + o) * width + p) * C + c] += w * x[((b * H + i) * W + j) * C + c];
        }
  }
  return y;
}

struct Dims {
  Shape in;
  int64_t height, width;
  Size size = Size::kSmall;
};

const char* name_of(ResizeMode m) {
  return m == ResizeMode::kNearest ? "nearest" : m == ResizeMode::kBilinear ? "bilinear" : "bicubic";
}

void add(CaseList& list, const Dims& d, const ResizeSpec& s) {
  list.add(
      cat("resize/", name_of(s.mode), s.align_corners ? "_corners" : "", s.antialias ? "_antialias" : "", d.in, "_",
          d.height, "x", d.width),
      [=](Rand& r) {
        // Values of one sign: a mean is of the size of its terms. Ten roundings (weights, products and sums of two
        // passes), times 1.9 for the absolute cubic weights and 1.5 for the largest value.
        return OpCase{.in = {r.uniform(d.in, 0.5f, 1.5f)},
                      .run = [=](Inputs v) { return resize(v[0], d.height, d.width, s); },
                      .ref = [=](RefInputs v) { return reference(v[0], d.height, d.width, s); },
                      .grads = {0},
                      .tol = s.mode == ResizeMode::kNearest ? 0 : 1.7e-6};
      },
      d.size);
}

}  // namespace

void add_resize_cases(CaseList& list) {
  constexpr auto kNearest = ResizeMode::kNearest, kBilinear = ResizeMode::kBilinear, kBicubic = ResizeMode::kBicubic;
  const ResizeSpec specs[] = {{kNearest, false, false}, {kBilinear, false, false}, {kBilinear, true, false},
                              {kBicubic, false, false}, {kBicubic, true, false},   {kBilinear, false, true},
                              {kBicubic, false, true},  {kBilinear, true, true},   {kBicubic, true, true}};
  const Dims dims[] = {{{1, 1, 1, 1}, 1, 1},
                       {{1, 1, 1, 3}, 4, 3},
                       {{2, 5, 7, 3}, 11, 4},   // few channels: rows are made wide first
                       {{2, 13, 11, 2}, 4, 5},  // few channels, mixed first
                       {{1, 7, 5, 13}, 3, 9},
                       {{1, 4, 6, 9}, 4, 13},  // an axis that stays as it is
                       {{1, 4, 1, 30}, 16, 1},
                       {{1, 40, 3, 8}, 2, 50},  // long sums both ways
                       {{2, 31, 29, 17}, 67, 23, Size::kLarge},
                       {{3, 29, 43, 1}, 101, 71, Size::kLarge}};
  for (const ResizeSpec& s : specs)
    for (const Dims& d : dims) add(list, d, s);
  add(list, {{4, 64, 64, 256}, 128, 128, Size::kBench}, {kNearest, false, false});  // a feature pyramid
  add(list, {{4, 64, 64, 256}, 128, 128, Size::kBench}, {kBilinear, false, false});
  add(list, {{16, 256, 256, 1}, 1024, 1024, Size::kBench}, {kBilinear, false, false});  // masks
  add(list, {{8, 448, 448, 3}, 224, 224, Size::kBench}, {kBicubic, false, true});       // pictures
  add(list, {{1, 7, 7, 144}, 256, 256, Size::kBench}, {kBicubic, false, false});        // a position table
}

}  // namespace tpo::optest
