#include "core/ops/conv.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_conv_cases(CaseList&);

namespace {

// Extents of one convolution; `image` and `map` are the two sides whichever is the input.
struct Conv {
  int64_t batch, h, w, in, out;
  HeightWidth kernel = 1, stride = 1, pad = 0;
  bool bias = true;
  HeightWidth out_pad = 0;  // of the transposed one
  Size size = Size::kSmall;
  Activation act = Activation::kNone;
};

std::string dims(const Conv& c) {
  return cat(c.batch, "x", c.h, "x", c.w, "x", c.in, "_", c.out, "_k", c.kernel.h, "x", c.kernel.w, "_s", c.stride.h,
             "x", c.stride.w, "_p", c.pad.h, "x", c.pad.w, c.out_pad.h + c.out_pad.w > 0 ? "_o" : "",
             c.bias ? "_bias" : "", c.act == Activation::kNone ? "" : cat("_act", static_cast<int>(c.act)));
}

int64_t extent(int64_t image, int64_t kernel, int64_t stride, int64_t pad) {
  return (image + 2 * pad - kernel) / stride + 1;
}

// Calls fn(image position, map position, kernel element), flat within a picture and a kernel, for every pair that
// meets.
template <class Fn>
void meet(const Conv& c, int64_t image_h, int64_t image_w, int64_t map_h, int64_t map_w, const Fn& fn) {
  for (int64_t i = 0; i < map_h; ++i)
    for (int64_t j = 0; j < map_w; ++j)
      for (int64_t u = 0; u < c.kernel.h; ++u)
        for (int64_t v = 0; v < c.kernel.w; ++v) {
          const int64_t y = i * c.stride.h - c.pad.h + u, x = j * c.stride.w - c.pad.w + v;
          if (y >= 0 && y < image_h && x >= 0 && x < image_w) fn(y * image_w + x, i * map_w + j, u * c.kernel.w + v);
        }
}

Ref start(const Shape& shape, const Conv& c, RefInputs v) {
  Ref y(shape);
  if (c.bias)
    for (int64_t r = 0; r < y.rows(); ++r)
      for (int64_t o = 0; o < y.cols(); ++o) y.at(r, o) = v[2][o];
  return y;
}

Ref conv(const Conv& c, RefInputs v) {
  const int64_t H = extent(c.h, c.kernel.h, c.stride.h, c.pad.h), W = extent(c.w, c.kernel.w, c.stride.w, c.pad.w);
  const int64_t taps = c.kernel.h * c.kernel.w;
  Ref y = start({c.batch, H, W, c.out}, c, v);
  for (int64_t b = 0; b < c.batch; ++b)
    meet(c, c.h, c.w, H, W, [&](int64_t image, int64_t map, int64_t tap) {
      for (int64_t o = 0; o < c.out; ++o)
        for (int64_t i = 0; i < c.in; ++i)
          y.at(b * H * W + map, o) += v[0].at(b * c.h * c.w + image, i) * v[1].at(o * taps + tap, i);
    });
  return y;
}

Ref conv_transpose(const Conv& c, RefInputs v) {
  const int64_t H = (c.h - 1) * c.stride.h - 2 * c.pad.h + c.kernel.h + c.out_pad.h;
  const int64_t W = (c.w - 1) * c.stride.w - 2 * c.pad.w + c.kernel.w + c.out_pad.w;
  const int64_t taps = c.kernel.h * c.kernel.w;
  Ref y = start({c.batch, H, W, c.out}, c, v);
  for (int64_t b = 0; b < c.batch; ++b)
    meet(c, H, W, c.h, c.w, [&](int64_t image, int64_t map, int64_t tap) {
      for (int64_t i = 0; i < c.in; ++i)
        for (int64_t o = 0; o < c.out; ++o)
          y.at(b * H * W + image, o) += v[0].at(b * c.h * c.w + map, i) * v[1].at(i * taps + tap, o);
    });
  return y;
}

Ref depthwise(const Conv& c, RefInputs v) {
  const int64_t H = extent(c.h, c.kernel.h, c.stride.h, c.pad.h), W = extent(c.w, c.kernel.w, c.stride.w, c.pad.w);
  Ref y = start({c.batch, H, W, c.in}, c, v);
  for (int64_t b = 0; b < c.batch; ++b)
    meet(c, c.h, c.w, H, W, [&](int64_t image, int64_t map, int64_t tap) {
      for (int64_t i = 0; i < c.in; ++i)
        y.at(b * H * W + map, i) += v[0].at(b * c.h * c.w + image, i) * v[1].at(tap, i);
    });
  return y;
}

double activation(double x, Activation act) {
  if (act == Activation::kRelu) return x > 0 ? x : 0;
  return act == Activation::kGelu ? 0.5 * x * std::erfc(-x / std::sqrt(2.0)) : x;
}

using Run = Tensor (*)(const Conv&, Inputs, const Tensor& bias);
using Reference = Ref (*)(const Conv&, RefInputs);

// `weight`: the shape of the second input; `terms`: products in one result.
OpCase case_of(Rand& r, const Conv& c, const Shape& weight, int64_t terms, Run run, Reference ref) {
  const int64_t channels = weight.rank() == 3 ? c.in : c.out;
  std::vector<Tensor> in = {r.normal({c.batch, c.h, c.w, c.in}),
                            r.normal(weight, 1 / std::sqrt(static_cast<float>(terms)))};
  if (c.bias) in.push_back(r.normal({channels}));
  // In a benchmark, images of 3 channels are data.
  std::vector<int> grads = c.size == Size::kBench && c.in == 3 ? std::vector<int>{1} : std::vector<int>{0, 1};
  if (c.bias) grads.push_back(2);
  return OpCase{.in = in,
                .run = [=](Inputs v) { return run(c, v, c.bias ? v[2] : Tensor()); },
                .ref =
                    [=](RefInputs v) {
                      Ref y = ref(c, v);
                      for (double& e : y.v) e = activation(e, c.act);
                      return y;
                    },
                .grads = grads,
                // the product, then an activation good to 2e-7 of its argument
                .tol = sum_tolerance(terms + 1) + (c.act == Activation::kNone ? 0 : 5e-7),
                .bf16_stores = c.act == Activation::kNone ? 1 : 2};  // the pre-activation is stored
}

// The product of a convolution's size without its gathering: what the benchmark compares with.
void add_twin(CaseList& list, const Conv& c) {
  const int64_t rows =
      c.batch * extent(c.h, c.kernel.h, c.stride.h, c.pad.h) * extent(c.w, c.kernel.w, c.stride.w, c.pad.w);
  const int64_t depth = c.kernel.h * c.kernel.w * c.in;
  list.add(
      "conv2d_as_linear/" + dims(c),
      [=](Rand& r) {
        return OpCase{.in = {r.normal({rows, depth}), r.normal({c.out, depth}), r.normal({c.out})},
                      .run = [](Inputs v) { return linear(v[0], v[1], v[2]); },
                      .ref = {},
                      .grads = c.in == 3 ? std::vector<int>{1, 2} : std::vector<int>{0, 1, 2}};
      },
      Size::kBench);
}

void add_conv(CaseList& list) {
  const Conv sizes[] = {{1, 1, 1, 1, 1},                          // one of everything
                        {2, 5, 3, 7, 6},                          // 1 x 1: linear
                        {2, 5, 4, 3, 2, 1, 2},                    // 1 x 1 with a stride
                        {2, 7, 5, 3, 4, 3, 1, 1},                 // 3 x 3, same size
                        {1, 8, 7, 2, 3, 3, 2, 1, false},          // 3 x 3, half the size
                        {2, 9, 11, 3, 5, 7, 4, 3},                // 7 x 7 stride 4
                        {2, 6, 4, 3, 5, 2, 2, 0},                 // patches that tile
                        {2, 7, 9, 3, 5, 2, 2, 0},                 // patches and a rest
                        {1, 8, 8, 2, 3, 2, 3, 0},                 // stride beyond the kernel: elements without gradient
                        {2, 6, 7, 2, 3, {3, 4}, {2, 1}, {0, 2}},  // unlike dims
                        {2, 7, 5, 3, 4, 3, 1, 1, true, 0, Size::kSmall, Activation::kGelu},
                        {2, 7, 5, 3, 4, 3, 2, 1, false, 0, Size::kSmall, Activation::kRelu},
                        {1, 2, 3, 2, 2, 5, 1, 4},                               // more padding than image
                        {2, 61, 31, 9, 67, 3, 1, 1, true, 0, Size::kLarge},     // several tiles and threads
                        {3, 37, 41, 13, 33, 3, 2, 1, true, 0, Size::kLarge},    // several phases, several tiles
                        {2, 256, 256, 3, 144, 7, 4, 3, true, 0, Size::kBench},  // Hiera's patch embedding
                        {2, 64, 64, 64, 64, 3, 1, 1, true, 0, Size::kBench},
                        {2, 64, 64, 256, 256, 3, 1, 1, true, 0, Size::kBench},
                        {2, 128, 128, 64, 128, 3, 2, 1, true, 0, Size::kBench},    // SAM 2's mask downsampling
                        {8, 224, 224, 3, 384, 16, 16, 0, true, 0, Size::kBench}};  // ViT patches
  for (const Conv& c : sizes) {
    if (c.size == Size::kBench) add_twin(list, c);
    list.add(
        "conv2d/" + dims(c),
        [=](Rand& r) {
          return case_of(
              r, c, {c.out, c.kernel.h, c.kernel.w, c.in}, c.kernel.h * c.kernel.w * c.in,
              [](const Conv& s, Inputs v, const Tensor& bias) {
                return conv2d(v[0], v[1], bias, {.stride = s.stride, .pad = s.pad}, s.act);
              },
              conv);
        },
        c.size);
  }
}

void add_conv_transpose(CaseList& list) {
  const Conv sizes[] = {{1, 1, 1, 1, 1},
                        {2, 3, 5, 4, 3, 2, 2},  // SAM's: windows that tile
                        {2, 3, 5, 4, 3, 2, 2, 0, false},
                        {2, 3, 4, 5, 2, 2, 2, 0, true, 1},        // and a rest that sees the bias only
                        {2, 4, 3, 3, 5, 3, 2, 1, true, {1, 0}},   // overlap, chosen size
                        {1, 5, 6, 2, 3, 4, 1, 2},                 // stride 1
                        {2, 3, 4, 3, 2, {5, 2}, {3, 2}, {2, 0}},  // unlike dims
                        {1, 3, 2, 2, 3, 2, 3, 0, true, 2},        // gaps between windows
                        {2, 3, 5, 4, 3, 2, 2, 0, true, 0, Size::kSmall, Activation::kGelu},
                        {3, 29, 31, 37, 19, 2, 2, 0, true, 0, Size::kLarge},
                        {2, 23, 21, 35, 17, 4, 2, 1, true, 0, Size::kLarge},
                        {2, 64, 64, 256, 64, 2, 2, 0, true, 0, Size::kBench},  // SAM's mask decoder
                        {2, 64, 64, 128, 64, 4, 2, 1, true, 0, Size::kBench}};
  for (const Conv& c : sizes)
    list.add(
        "conv_transpose2d/" + dims(c),
        [=](Rand& r) {
          return case_of(
              r, c, {c.in, c.kernel.h, c.kernel.w, c.out}, c.kernel.h * c.kernel.w * c.in,
              [](const Conv& s, Inputs v, const Tensor& bias) {
                return conv_transpose2d(v[0], v[1], bias, {.stride = s.stride, .pad = s.pad, .out_pad = s.out_pad},
                                        s.act);
              },
              conv_transpose);
        },
        c.size);
}

void add_depthwise(CaseList& list) {
  const Conv sizes[] = {{1, 1, 1, 1, 0},
                        {2, 5, 4, 7, 0, 3, 1, 1},
                        {1, 9, 10, 16, 0, 7, 1, 3},               // a whole block of channels
                        {2, 8, 7, 19, 0, 3, 2, 1, false},         // stride, block and a rest
                        {2, 7, 9, 5, 0, {2, 9}, {3, 2}, {0, 4}},  // more columns than one pass of taps
                        {1, 5, 6, 3, 0, 2, 3, 0},                 // gaps
                        {1, 4, 5, 70, 0, 3, 1, 1},                // several groups of blocks
                        {1, 3, 2, 2, 0, 3, 1, 4},                 // more padding than the kernel
                        {2, 43, 41, 37, 0, 7, 1, 3, true, 0, Size::kLarge},
                        {1, 530, 67, 17, 0, 3, 1, 1, true, 0, Size::kLarge},  // several bands of a picture
                        {2, 64, 64, 256, 0, 7, 1, 3, true, 0, Size::kBench},  // SAM 2's memory encoder
                        {2, 64, 64, 256, 0, 3, 1, 1, true, 0, Size::kBench}};
  for (const Conv& c : sizes)
    list.add(
        "depthwise_conv2d/" + dims(c),
        [=](Rand& r) {
          return case_of(
              r, c, {c.kernel.h, c.kernel.w, c.in}, c.kernel.h * c.kernel.w,
              [](const Conv& s, Inputs v, const Tensor& bias) {
                return depthwise_conv2d(v[0], v[1], bias, {.stride = s.stride, .pad = s.pad});
              },
              depthwise);
        },
        c.size);
}

}  // namespace

void add_conv_cases(CaseList& list) {
  add_conv(list);
  add_conv_transpose(list);
  add_depthwise(list);
}

}  // namespace tpo::optest
