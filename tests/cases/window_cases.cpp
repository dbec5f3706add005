#include "core/ops/window.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_window_cases(CaseList&);

namespace {

struct Dims {
  Shape image;
  int64_t w;
  Size size = Size::kSmall;
};

Shape windows_of(const Dims& d) {
  const int64_t nh = (d.image[1] + d.w - 1) / d.w, nw = (d.image[2] + d.w - 1) / d.w;
  return {d.image[0] * nh * nw, d.w, d.w, d.image[3]};
}

// Calls fn(pixel of the image or -1, pixel of the windows), both in elements, for every element of the windows.
template <class Fn>
void for_pairs(const Dims& d, const Fn& fn) {
  const int64_t H = d.image[1], W = d.image[2], C = d.image[3];
  int64_t at = 0;
  for (int64_t b = 0; b < d.image[0]; ++b)
    for (int64_t top = 0; top < H; top += d.w)
      for (int64_t left = 0; left < W; left += d.w)
        for (int64_t i = top; i < top + d.w; ++i)
          for (int64_t j = left; j < left + d.w; ++j)
            for (int64_t c = 0; c < C; ++c, ++at) fn(i < H && j < W ? ((b * H + i) * W + j) * C + c : -1, at);
}

}  // namespace

// Copies: exact.
void add_window_cases(CaseList& list) {
  for (const Dims& d : {Dims{{1, 1, 1, 1}, 1},
                        {{2, 4, 6, 3}, 2},
                        {{2, 5, 7, 3}, 3},  // padding below and to the right
                        {{1, 2, 3, 5}, 4},  // one window, mostly padding
                        {{3, 41, 29, 13}, 8, Size::kLarge},
                        {{4, 64, 64, 288}, 14, Size::kBench}}) {
    list.add(
        cat("window_partition/", d.image, "_", d.w),
        [=](Rand& r) {
          return OpCase{.in = {r.normal(d.image)},
                        .run = [=](Inputs v) { return window_partition(v[0], d.w); },
                        .ref =
                            [=](RefInputs v) {
                              Ref y(windows_of(d));
                              for_pairs(d, [&](int64_t from, int64_t to) { y[to] = from < 0 ? 0 : v[0][from]; });
                              return y;
                            },
                        .grads = {0}};
        },
        d.size);
    list.add(
        cat("window_merge/", d.image, "_", d.w),
        [=](Rand& r) {
          return OpCase{.in = {r.normal(windows_of(d))},
                        .run = [=](Inputs v) { return window_merge(v[0], d.image[1], d.image[2]); },
                        .ref =
                            [=](RefInputs v) {
                              Ref y(d.image);
                              for_pairs(d, [&](int64_t to, int64_t from) {
                                if (to >= 0) y[to] = v[0][from];
                              });
                              return y;
                            },
                        .grads = {0}};
        },
        d.size);
  }
}

}  // namespace tpo::optest
