// Depthwise convolution on bands: some rows of an image are copied into scratch with their zero padding, in fp32 and in
// planes of 16 channels (a cache line), so that the loops below have neither borders nor storage, and neighbouring
// positions do not fall into the same sets of the cache. A copied element is used kernel_h * kernel_w times. Sums of 8
// neighbouring positions stay in registers over the whole kernel: one load of a weight and 8 of the band for 8
// multiply-adds.
#include <algorithm>

#include "core/kernels/depthwise.h"
#include "core/kernels/simd.h"
#include "core/kernels/storage.h"
#include "core/parallel_for.h"

namespace tpo {

namespace {

using simd::Vec;
constexpr int64_t kLanes = sizeof(Vec) / sizeof(float);
constexpr int64_t kBlock = 16;  // channels
constexpr int kVecs = kBlock / kLanes;
constexpr int64_t kBandFloats = int64_t{1} << 17;  // 512 KiB: in the second-level cache
constexpr int kTaps = 7;                           // kernel columns whose sums of the weight's gradient fit registers

// A sliding window over a source plane, seen from the result: position i reads virtual rows i * step - pad + u, and
// virtual row v is row v / spread of the source if that is whole, else zero.
struct Line {
  int64_t source, spread, kernel, step, pad, out;
  int64_t reach(int64_t n) const { return (n - 1) * step + kernel; }  // virtual rows that n positions read
};

Line forward(const ConvAxis& a) { return {a.image, 1, a.kernel, a.stride, a.pad, a.out}; }
Line backward(const ConvAxis& a) { return {a.out, a.stride, a.kernel, 1, a.kernel - 1 - a.pad, a.image}; }

// Who does what: items are (picture, group of blocks of channels, band of rows); scratch is per slot.
struct Bands {
  Line h, w;
  int64_t batch, channels;
  int64_t group, groups;  // blocks that are copied together: neighbouring cache lines
  int64_t rows, bands, slots;
  bool keep_map;  // a band of the map's gradient lies beside the image's

  int64_t width() const { return w.reach(w.out); }
  int64_t band_floats() const { return h.reach(rows) * width() * kBlock; }       // of a block
  int64_t weight_floats() const { return (h.kernel * w.kernel + 1) * kBlock; }   // a weight and a bias
  int64_t map_floats() const { return (keep_map ? rows : 1) * w.out * kBlock; }  // or one row of results
  int64_t slot_floats() const { return group * (band_floats() + weight_floats() + map_floats()); }
};

Bands bands_of(const Line& h, const Line& w, int64_t batch, int64_t channels, bool weight_grad) {
  constexpr int64_t kThreadMacs = 1 << 17;  // about 5 us, what starting a thread costs
  constexpr int64_t kGroup = 4;
  const int64_t blocks = (channels + kBlock - 1) / kBlock;
  const int64_t threads =
      std::clamp<int64_t>(batch * channels * h.out * w.out * h.kernel * w.kernel / kThreadMacs, 1, num_threads());
  const int64_t group = std::min(kGroup, weight_grad ? (blocks + threads - 1) / threads : blocks);
  Bands b{h, w, batch, channels, group, (blocks + group - 1) / group, 1, 0, 0, weight_grad};
  const int64_t row_floats = h.step * b.width() + (weight_grad ? w.out : 0);
  const int64_t fit = (kBandFloats / (b.group * kBlock) - (h.kernel - h.step) * b.width()) / row_floats;
  // Parts of a picture if other items are few; the weight's gradient has no others: its owners add all bands.
  const int64_t planes = std::max<int64_t>(1, batch * b.groups);
  const int64_t parts = weight_grad ? 1 : (threads + planes - 1) / planes;
  const int64_t most = std::max<int64_t>(1, std::min(fit, (h.out + parts - 1) / parts));
  b.bands = (h.out + most - 1) / most;
  b.rows = (h.out + b.bands - 1) / b.bands;  // alike
  b.slots = std::min(threads, weight_grad ? b.groups : planes * b.bands);
  return b;
}

// Channels [0, lanes) of one position to the same position of its blocks' planes, `plane` floats apart.
template <class T>
void split_blocks(const T* from, int64_t lanes, float* to, int64_t plane) {
  for (; lanes >= kBlock; lanes -= kBlock, from += kBlock, to += plane) convert(from, to, kBlock);
  if (lanes > 0) convert(from, to, lanes);
}

// The virtual rows that result rows [y, y + n) read, of channels [c, c + lanes): per block (rows, width, 16).
template <class T>
void fill_band(const Bands& b, const T* source, int64_t y, int64_t n, int64_t c, int64_t lanes, float* out) {
  const int64_t width = b.width(), rows = b.h.reach(n), plane = b.band_floats();
  // Source columns that fall into the band: column j lies at j * spread + pad.
  const int64_t first = b.w.pad >= 0 ? 0 : (-b.w.pad + b.w.spread - 1) / b.w.spread;
  const int64_t last = std::max(first, std::min(b.w.source, (width - 1 - b.w.pad) / b.w.spread + 1));
  for (int64_t v = y * b.h.step - b.h.pad; v < y * b.h.step - b.h.pad + rows; ++v, out += width * kBlock) {
    const bool inside = v >= 0 && v % b.h.spread == 0 && v / b.h.spread < b.h.source && first < last;
    for (int64_t i = 0; i * kBlock < lanes; ++i) {
      float* line = out + i * plane;
      if (inside && b.w.spread == 1 && lanes - i * kBlock >= kBlock) {
        std::fill(line, line + (first + b.w.pad) * kBlock, 0.0f);
        std::fill(line + (last + b.w.pad) * kBlock, line + width * kBlock, 0.0f);
      } else {
        std::fill(line, line + width * kBlock, 0.0f);
      }
    }
    if (!inside) continue;
    const T* from = source + v / b.h.spread * b.w.source * b.channels + c;
    for (int64_t j = first; j < last; ++j)
      split_blocks(from + j * b.channels, lanes, out + (j * b.w.spread + b.w.pad) * kBlock, plane);
  }
}

// Calls fn.operator()<min(n, kMost)>(). Requires: n >= 1.
template <int kMost, class Fn>
void with_count(int64_t n, const Fn& fn) {
  if constexpr (kMost > 1)
    if (n < kMost) return with_count<kMost - 1>(n, fn);
  fn.template operator()<kMost>();
}

// kR neighbouring sums of a vector of channels: out[r] = start + sum_{u,v} band[u][r * step + v] w[u][v].
template <int kR>
[[gnu::noinline]] void sums(const Bands& b, const float* band, const float* w, Vec start, float* out,
                            int64_t out_step) {
  const int64_t row = b.width() * kBlock, step = b.w.step * kBlock;
  Vec acc[kR];
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r) acc[r] = start;
  for (int64_t u = 0; u < b.h.kernel; ++u) {
    const float* x = band + u * row;
    for (int64_t v = 0; v < b.w.kernel; ++v, x += kBlock, w += kBlock) {
      const Vec wv = Vec::load(w);
#pragma GCC unroll 8
      for (int r = 0; r < kR; ++r) acc[r] = fma(Vec::load(x + r * step), wv, acc[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r) acc[r].store(out + r * out_step);
}

// 8 sums of a kernel 7 wide with step 1, the common one: weights of a row stay in registers too, every element of the
// band is loaded once for all sums it belongs to (21 loads for 56 multiply-adds).
void sums_8_of_7(const Bands& b, const float* band, const float* w, Vec start, float* out, int64_t out_step) {
  constexpr int kN = 8, kW = 7;
  Vec acc[kN], wv[kW];
#pragma GCC unroll 8
  for (int r = 0; r < kN; ++r) acc[r] = start;
  for (int64_t u = 0; u < b.h.kernel; ++u, band += b.width() * kBlock, w += kW * kBlock) {
#pragma GCC unroll 7
    for (int v = 0; v < kW; ++v) wv[v] = Vec::load(w + v * kBlock);
#pragma GCC unroll 14
    for (int t = 0; t < kN + kW - 1; ++t) {
      const Vec x = Vec::load(band + t * kBlock);
#pragma GCC unroll 7
      for (int v = 0; v < kW; ++v)
        if (t - v >= 0 && t - v < kN) acc[t - v] = fma(x, wv[v], acc[t - v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kN; ++r) acc[r].store(out + r * out_step);
}

// The first 8 of n sums, or all.
void sums_of(int64_t n, const Bands& b, const float* band, const float* w, Vec start, float* out, int64_t out_step) {
  if (n >= 8 && b.w.kernel == 7 && b.w.step == 1) return sums_8_of_7(b, band, w, start, out, out_step);
  with_count<8>(n, [&]<int kN>() { sums<kN>(b, band, w, start, out, out_step); });
}

// One row of results of a block.
void result_line(const Bands& b, const float* band, const float* w, const float* start, float* out, int64_t out_step) {
  for (int64_t half = 0; half < kBlock; half += kLanes)
    for (int64_t x = 0; x < b.w.out; x += 8)
      sums_of(b.w.out - x, b, band + x * b.w.step * kBlock + half, w + half, Vec::load(start + half),
              out + x * out_step + half, out_step);
}

// The weight of channels [c, c + lanes) as (kernel_h, kernel_w, 16), turned round for the adjoint, then the bias.
template <class T>
void fill_weight(const Depthwise& k, int64_t c, int64_t lanes, float* out) {
  const int64_t n = k.s.h.kernel * k.s.w.kernel;
  std::fill(out, out + (n + 1) * kBlock, 0.0f);
  for (int64_t i = 0; i < n; ++i)
    convert(static_cast<const T*>(k.w) + (k.adjoint ? n - 1 - i : i) * k.s.channels + c, out + i * kBlock, lanes);
  if (k.bias != nullptr) convert(static_cast<const T*>(k.bias) + c, out + n * kBlock, lanes);
}

Bands bands_of(const Depthwise& k) {
  const auto line = k.adjoint ? backward : forward;
  return bands_of(line(k.s.h), line(k.s.w), k.s.batch, k.s.channels, false);
}

// Rows [y0, y0 + n) of a block's results, from its band.
template <class T, class Out>
void run_block(const Depthwise& k, const Bands& b, const float* band, int64_t n, int64_t c, Out* out, float* scratch) {
  const int64_t lanes = std::min(kBlock, b.channels - c);
  float *w = scratch, *line = w + b.weight_floats();
  const float* start = line - kBlock;
  fill_weight<T>(k, c, lanes, w);
  for (int64_t y = 0; y < n; ++y, band += b.h.step * b.width() * kBlock, out += b.w.out * b.channels) {
    if (std::is_same_v<Out, float> && lanes == kBlock && !k.accumulate) {
      result_line(b, band, w, start, write_row(out, line), b.channels);
      continue;
    }
    result_line(b, band, w, start, line, kBlock);
    for (int64_t x = 0; x < b.w.out; ++x)
      for (int64_t i = 0; i < lanes; ++i) {
        Out& o = out[x * b.channels + i];
        o = narrow<Out>(line[x * kBlock + i] + (k.accumulate ? widen(o) : 0.0f));
      }
  }
}

template <class T, class Out>
void run_item(const Depthwise& k, const Bands& b, int64_t item, float* scratch) {
  const int64_t y0 = item % b.bands * b.rows, n = std::min(b.rows, b.h.out - y0);
  const int64_t c = item / b.bands % b.groups * b.group * kBlock, lanes = std::min(b.group * kBlock, b.channels - c);
  const int64_t picture = item / b.bands / b.groups;
  fill_band(b, static_cast<const T*>(k.x) + picture * b.h.source * b.w.source * b.channels, y0, n, c, lanes, scratch);
  Out* out = static_cast<Out*>(k.y) + (picture * b.h.out + y0) * b.w.out * b.channels + c;
  for (int64_t i = 0; i * kBlock < lanes; ++i)
    run_block<T>(k, b, scratch + i * b.band_floats(), n, c + i * kBlock, out + i * kBlock,
                 scratch + b.group * b.band_floats());
}

// --- the weight's gradient: a thread owns blocks of channels ---------------------------------------------------------

Bands bands_of(const DepthwiseWeightGrad& k) {
  return bands_of(forward(k.s.h), forward(k.s.w), k.s.batch, k.s.channels, true);
}

// kN neighbouring kernel columns of 16 channels: dw[v] += sum_x dy[x] band[x * step + v]. A row is summed by itself
// first, which keeps the sum over many rows accurate.
template <int kN>
[[gnu::noinline]] void add_taps(const Bands& b, const float* band, const float* dy, float* dw) {
  const int64_t step = b.w.step * kBlock;
  Vec acc[kN][kVecs];
#pragma GCC unroll 7
  for (auto& tap : acc)
#pragma GCC unroll 2
    for (Vec& a : tap) a = Vec::zero();
  for (int64_t x = 0; x < b.w.out; ++x, dy += kBlock, band += step) {
    Vec d[kVecs];
#pragma GCC unroll 2
    for (int i = 0; i < kVecs; ++i) d[i] = Vec::load(dy + i * kLanes);
#pragma GCC unroll 7
    for (int v = 0; v < kN; ++v)
#pragma GCC unroll 2
      for (int i = 0; i < kVecs; ++i) acc[v][i] = fma(Vec::load(band + v * kBlock + i * kLanes), d[i], acc[v][i]);
  }
#pragma GCC unroll 7
  for (int v = 0; v < kN; ++v)
#pragma GCC unroll 2
    for (int i = 0; i < kVecs; ++i) {
      float* to = dw + v * kBlock + i * kLanes;
      (Vec::load(to) + acc[v][i]).store(to);
    }
}

// Rows [y, y + n) of the map's gradient, of channels [c, c + lanes): per block (n, out, 16) in fp32.
template <class T>
void fill_map(const Bands& b, const T* map, int64_t y, int64_t n, int64_t c, int64_t lanes, float* out) {
  const int64_t plane = b.map_floats();
  if (lanes % kBlock != 0) std::fill(out + lanes / kBlock * plane, out + (lanes / kBlock + 1) * plane, 0.0f);
  for (int64_t x = y * b.w.out; x < (y + n) * b.w.out; ++x, out += kBlock)
    split_blocks(map + x * b.channels + c, lanes, out, plane);
}

// sum[c] += sum_x dy[x][c]
void add_line(const float* dy, int64_t n, float* sum) {
  for (int64_t i = 0; i < kBlock; i += kLanes) {
    Vec a = Vec::zero();
    for (int64_t x = 0; x < n; ++x) a += Vec::load(dy + x * kBlock + i);
    (Vec::load(sum + i) + a).store(sum + i);
  }
}

// dw of all taps and a row of the map, from the band's rows that it saw.
void add_kernel(const Bands& b, const float* band, const float* dy, float* dw) {
  for (int64_t u = 0; u < b.h.kernel; ++u, band += b.width() * kBlock)
    for (int64_t v = 0; v < b.w.kernel; v += kTaps)
      with_count<kTaps>(b.w.kernel - v,
                        [&]<int kN>() { add_taps<kN>(b, band + v * kBlock, dy, dw + (u * b.w.kernel + v) * kBlock); });
}

// (rows, 16) sums to (rows, channels).
void finish(const float* sums, int64_t rows, int64_t channels, int64_t lanes, bool accumulate, float* out) {
  for (int64_t r = 0; r < rows; ++r, sums += kBlock, out += channels)
    for (int64_t l = 0; l < lanes; ++l) out[l] = sums[l] + (accumulate ? out[l] : 0.0f);
}

template <class T>
void run_group(const DepthwiseWeightGrad& k, const Bands& b, int64_t c, float* scratch) {
  const int64_t lanes = std::min(b.group * kBlock, b.channels - c), taps = b.h.kernel * b.w.kernel;
  float *band = scratch, *map = band + b.group * b.band_floats(), *sums = map + b.group * b.map_floats();
  std::fill(sums, sums + b.group * b.weight_floats(), 0.0f);
  for (int64_t item = 0; item < b.batch * b.bands; ++item) {
    const int64_t picture = item / b.bands, y0 = item % b.bands * b.rows, n = std::min(b.rows, b.h.out - y0);
    fill_map(b, static_cast<const T*>(k.map) + picture * b.h.out * b.w.out * b.channels, y0, n, c, lanes, map);
    if (k.dw != nullptr)
      fill_band(b, static_cast<const T*>(k.image) + picture * b.h.source * b.w.source * b.channels, y0, n, c, lanes,
                band);
    for (int64_t i = 0; i * kBlock < lanes; ++i)
      for (int64_t y = 0; y < n; ++y) {
        const float* dy = map + i * b.map_floats() + y * b.w.out * kBlock;
        float* dw = sums + i * b.weight_floats();
        if (k.dbias != nullptr) add_line(dy, b.w.out, dw + taps * kBlock);
        if (k.dw != nullptr) add_kernel(b, band + i * b.band_floats() + y * b.h.step * b.width() * kBlock, dy, dw);
      }
  }
  for (int64_t i = 0; i * kBlock < lanes; ++i) {
    const float* dw = sums + i * b.weight_floats();
    const int64_t at = c + i * kBlock, in_block = std::min(kBlock, b.channels - at);
    if (k.dw != nullptr) finish(dw, taps, b.channels, in_block, k.accumulate_w, k.dw + at);
    if (k.dbias != nullptr) finish(dw + taps * kBlock, 1, b.channels, in_block, k.accumulate_bias, k.dbias + at);
  }
}

// Calls body(item, scratch) for all items, each slot with its own scratch.
template <class Body>
void for_items(const Bands& b, int64_t items, float* scratch, const Body& body) {
  parallel_for(b.slots, 1, [&](int64_t first, int64_t last) {
    for (int64_t slot = first; slot < last; ++slot)
      for (int64_t i = items * slot / b.slots; i < items * (slot + 1) / b.slots; ++i)
        body(i, scratch + slot * b.slot_floats());
  });
}

}  // namespace

int64_t Depthwise::scratch_floats() const {
  const Bands b = bands_of(*this);
  return b.slots * b.slot_floats();
}

int64_t DepthwiseWeightGrad::scratch_floats() const {
  const Bands b = bands_of(*this);
  return b.slots * b.slot_floats();
}

void run(const Depthwise& k, Cpu, Stream&) {
  const Bands b = bands_of(k);
  with_storage(k.dtype, [&]<class T>() {
    with_storage(k.out_dtype, [&]<class Out>() {
      for_items(b, b.batch * b.groups * b.bands, k.scratch,
                [&](int64_t i, float* scratch) { run_item<T, Out>(k, b, i, scratch); });
    });
  });
}

void run(const DepthwiseWeightGrad& k, Cpu, Stream&) {
  const Bands b = bands_of(k);
  with_storage(k.dtype, [&]<class T>() {
    for_items(b, b.groups, k.scratch,
              [&](int64_t i, float* scratch) { run_group<T>(k, b, i * b.group * kBlock, scratch); });
  });
}

}  // namespace tpo
