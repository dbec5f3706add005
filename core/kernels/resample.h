#pragma once
// Separable resampling of images: resize in all its kinds, and average pooling, forward and adjoint in one kernel.
// Along each axis an output is a weighted sum over a run of neighbouring inputs; the adjoint of that is again a
// weighted sum over a run of neighbours, so the gradient is a gather with a fixed order of sums. Memory-bound for kinds
// of few weights: both passes in one, through a row that stays in cache.
#include <cmath>
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/inline.h"

namespace tpo {

class Stream;

enum class ResampleKind : uint8_t { kNearest, kBilinear, kBicubic, kBox };

// How one axis of `in` elements becomes one of `out`; see ops/resize.h and ops/pool.h for the formulas.
struct ResampleAxis {
  int64_t in, out;
  ResampleKind kind;
  bool align_corners = false, antialias = false;  // not of kBox
  int64_t kernel = 1, stride = 1, padding = 0;    // of kBox
  bool include_padding = false;                   // of kBox: padding counts in the divisor
  TPO_INLINE bool identity() const { return in == out && (kind != ResampleKind::kBox || kernel == 1); }
};

// The inputs [first, first + count) of one output, what centre the filter has and how wide it is.
struct ResampleRun {
  int64_t first, count;
  double centre;   // in units of inputs, an input standing at its index
  double stretch;  // of the filter: above 1 where antialias widens it
  double scale;    // of the weights
};

// The filter at distance d: a triangle, or the cubic convolution of Keys with parameter a.
TPO_INLINE double resample_filter(const ResampleAxis& axis, double d) {
  d = d < 0 ? -d : d;
  if (axis.kind == ResampleKind::kBilinear) return d < 1 ? 1 - d : 0;
  const double a = axis.antialias ? -0.5 : -0.75;
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? a * (((d - 5) * d + 8) * d - 4) : 0;
}

// Weight of input i of run r.
TPO_INLINE double resample_weight(const ResampleAxis& axis, const ResampleRun& r, int64_t i) {
  if (axis.identity() || axis.kind == ResampleKind::kNearest || axis.kind == ResampleKind::kBox) return r.scale;
  if (axis.antialias) return r.scale * resample_filter(axis, (static_cast<double>(i) - r.centre) / r.stretch);
  // Positions outside the axis read its border: the first and the last input of it collect their weights.
  const int64_t reach = axis.kind == ResampleKind::kBilinear ? 1 : 2;
  const auto below = static_cast<int64_t>(std::floor(r.centre));
  double w = 0;
  for (int64_t j = below + 1 - reach; j <= below + reach; ++j) {
    const int64_t inside = j < 0 ? 0 : (j >= axis.in ? axis.in - 1 : j);
    if (inside == i) w += resample_filter(axis, r.centre - static_cast<double>(j));
  }
  return w;
}

TPO_INLINE ResampleRun resample_box(const ResampleAxis& axis, int64_t o) {
  const int64_t begin = o * axis.stride - axis.padding, last = axis.in + axis.padding;
  const int64_t end = begin + axis.kernel < last ? begin + axis.kernel : last;
  const int64_t first = begin < 0 ? 0 : begin, stop = end < axis.in ? end : axis.in;
  const int64_t divisor = axis.include_padding ? end - begin : stop - first;
  return {first, stop > first ? stop - first : 0, 0, 1, divisor > 0 ? 1.0 / static_cast<double>(divisor) : 0};
}

// The run of output o. Its begin and its end never decrease with o.
TPO_INLINE ResampleRun resample_run(const ResampleAxis& axis, int64_t o) {
  if (axis.identity()) return {o, 1, 0, 1, 1};
  if (axis.kind == ResampleKind::kBox) return resample_box(axis, o);
  if (axis.kind == ResampleKind::kNearest) {  // in fp32, as PyTorch has it
    const auto at = static_cast<int64_t>(
        std::floor(static_cast<float>(o) * (static_cast<float>(axis.in) / static_cast<float>(axis.out))));
    return {at < axis.in ? at : axis.in - 1, 1, 0, 1, 1};
  }
  const auto in = static_cast<double>(axis.in), out = static_cast<double>(axis.out), at = static_cast<double>(o);
  const double step = axis.align_corners ? (axis.out > 1 ? (in - 1) / (out - 1) : 0) : in / out;
  const int64_t reach = axis.kind == ResampleKind::kBilinear ? 1 : 2;
  if (!axis.antialias) {
    const double centre = axis.align_corners ? step * at : step * (at + 0.5) - 0.5;
    const auto below = static_cast<int64_t>(std::floor(centre));
    const int64_t begin = below + 1 - reach, last = below + reach;
    const int64_t first = begin < 0 ? 0 : (begin < axis.in ? begin : axis.in - 1);
    const int64_t end = last < 0 ? 0 : (last < axis.in ? last : axis.in - 1);
    return {first, end - first + 1, centre, 1, 1};
  }
  const double stretch = step > 1 ? step : 1, centre = step * (at + 0.5),
               support = static_cast<double>(reach) * stretch;
  const auto begin = static_cast<int64_t>(centre - support + 0.5), stop = static_cast<int64_t>(centre + support + 0.5);
  const int64_t first = begin < 0 ? 0 : begin, end = stop < axis.in ? stop : axis.in;
  ResampleRun r{first, end - first, centre - 0.5, stretch, 1};
  double sum = 0;
  for (int64_t i = first; i < end; ++i) sum += resample_weight(axis, r, i);
  r.scale = 1 / sum;
  return r;
}

// Pairs (output, input) with a weight.
TPO_INLINE int64_t resample_pairs(const ResampleAxis& axis) {
  if (axis.identity() || axis.kind == ResampleKind::kNearest) return axis.out;
  int64_t n = 0;
  for (int64_t o = 0; o < axis.out; ++o) n += resample_run(axis, o).count;
  return n;
}

// y[b,o,p,c] = sum_ij weight_h[o,i] weight_w[p,j] x[b,i,j,c]; adjoint: from (out_h, out_w) to (in_h, in_w) by the
// transposed weights.
struct Resample {
  static constexpr const char* kName = "resample";
  const void* x;  // (images, h.in, w.in, channels); of `out` if adjoint
  void* y;        // (images, h.out, w.out, channels); of `in` if adjoint
  int64_t images, channels;
  ResampleAxis h, w;
  bool adjoint;
  DType dtype, out_dtype;
  int64_t inputs() const { return images * channels * (adjoint ? h.out * w.out : h.in * w.in); }
  int64_t outputs() const { return images * channels * (adjoint ? h.in * w.in : h.out * w.out); }
  // True if rows are made wide before they are mixed: that sums over fewer of them when there are more rows after.
  bool wide_first() const;
  Cost cost() const;
};
void run(const Resample&, Cpu, Stream&);
void run(const Resample&, Cuda, Stream&);

}  // namespace tpo
