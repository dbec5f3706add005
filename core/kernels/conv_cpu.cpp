// Convolution as products (gemm.h) over tiles of gathered windows. A thread owns tiles of rows, gathers one, multiplies
// it (on one thread, as any product inside a parallel region) and stores it while it is in the cache. Columns of a
// window row, (kx, c), are contiguous in the image, so that a gather is copies of w.kernel * channels elements.
#include <algorithm>

#include "core/kernels/conv.h"
#include "core/kernels/gemm.h"
#include "core/kernels/storage.h"
#include "core/parallel_for.h"

namespace tpo {

namespace {

constexpr int64_t kTileFloats = int64_t{1} << 20;  // 4 MiB a thread
constexpr int64_t kTileRows = 1024;

// Rows of a product cut into tiles, and how many threads share them.
struct Tiling {
  int64_t rows, per, count, slots;
  // Tiles of the same size over fewer rows.
  Tiling over(int64_t n) const {
    const int64_t tiles = (n + per - 1) / per;
    return {n, per, tiles, std::min(slots, tiles)};
  }
};

// Threads that `macs` multiply-adds are worth.
int64_t threads_for(int64_t macs) {
  constexpr int64_t kThreadMacs = 1 << 18;  // about 5 us, what starting a thread costs
  return std::clamp<int64_t>(macs / kThreadMacs, 1, num_threads());
}

// `width`: floats of scratch a row needs; `macs`: multiply-adds of all rows.
Tiling tile(int64_t rows, int64_t width, int64_t macs) {
  const int64_t threads = threads_for(macs);
  const int64_t share = (rows + threads - 1) / threads;
  const int64_t per = std::clamp<int64_t>(std::min(kTileFloats / width, share), 16, kTileRows);
  return Tiling{0, per, 0, threads}.over(rows);
}

// Calls body(slot, first row, rows) for every tile; the tiles of a slot one after the other.
template <class Body>
void for_tiles(const Tiling& t, const Body& body) {
  parallel_for(t.slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot)
      for (int64_t i = t.count * slot / t.slots; i < t.count * (slot + 1) / t.slots; ++i)
        body(slot, i * t.per, std::min(t.per, t.rows - i * t.per));
  });
}

// Windows of an image (batch, height, width, channels), in the order (batch, oy, ox).
template <class T>
struct Windows {
  const T* image;
  int64_t height, width, channels;
  int64_t out_h, out_w, kernel_h, kernel_w, stride_h, stride_w;
  int64_t top, left;  // image position of the first window's first element; may be outside

  // Columns [k0, k1) of windows [r0, r0 + rows), to cols (rows, k1 - k0).
  void gather(int64_t r0, int64_t rows, int64_t k0, int64_t k1, float* cols) const {
    const int64_t run = kernel_w * channels;
    for (int64_t r = r0; r < r0 + rows; ++r) {
      const int64_t x0 = r % out_w * stride_w + left, y0 = r / out_w % out_h * stride_h + top;
      const T* picture = image + r / (out_w * out_h) * height * width * channels;
      for (int64_t ky = k0 / run; ky * run < k1; ++ky) {
        const int64_t lo = std::max<int64_t>(k0 - ky * run, 0), hi = std::min(k1 - ky * run, run);
        const int64_t y = y0 + ky;
        // Columns [from, to) lie inside the picture.
        const int64_t from = y < 0 || y >= height ? hi : std::clamp(-x0 * channels, lo, hi);
        const int64_t to = std::clamp((width - x0) * channels, from, hi);
        std::fill(cols, cols + (from - lo), 0.0f);
        if (from < to) convert(picture + ((y * width + x0) * channels + from), cols + (from - lo), to - from);
        std::fill(cols + (to - lo), cols + (hi - lo), 0.0f);
        cols += hi - lo;
      }
    }
  }
};

template <class T>
Windows<T> windows_of(const ConvShape& s, const void* image) {
  return {static_cast<const T*>(image),
          s.h.image,
          s.w.image,
          s.channels,
          s.h.out,
          s.w.out,
          s.h.kernel,
          s.w.kernel,
          s.h.stride,
          s.w.stride,
          -s.h.pad,
          -s.w.pad};
}

// Floats needed to see n elements of a storage in fp32.
int64_t wide_floats(DType dtype, int64_t n) { return dtype == DType::kF32 ? 0 : n; }

// The elements in fp32: where they lie, or widened into `scratch`.
const float* wide(const float* p, float*, int64_t) { return p; }
const float* wide(const BF16* p, float* scratch, int64_t n) {
  convert(p, scratch, n);
  return scratch;
}

// to[i] (+)= from[i]
template <class T>
void store(const float* from, T* to, int64_t n, bool accumulate) {
  if (!accumulate) return convert(from, to, n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = narrow<T>(widen(to[i]) + from[i]);
}

// Rows of the bias, to which a product is then added; returns the beta of that product.
template <class T>
float start_rows(const T* bias, int64_t cols, float* out, int64_t rows, bool accumulate) {
  if (bias == nullptr) return accumulate ? 1.0f : 0.0f;
  for (int64_t r = 0; r < rows; ++r) convert(bias, out + r * cols, cols);
  return 1.0f;
}

// c = op(a) op(b) + beta c, all dense.
struct Trans {
  bool a, b;
};
void product(Trans t, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float beta, float* c,
             Stream& stream) {
  run(Gemm{a, b, c, m, n, k, t.a, t.b, 1, beta}, Cpu{}, stream);
}

// --- windows times weight -------------------------------------------------------------------------------------------

Tiling tiling_of(const ConvWindows& k) {
  return tile(k.s.rows(), k.s.depth() + wide_floats(k.out_dtype, k.s.out_channels), k.s.rows() * k.s.weight_numel());
}

template <class T, class Out>
void run_windows(const ConvWindows& k, Stream& stream) {
  const int64_t N = k.s.out_channels, K = k.s.depth();
  const Tiling t = tiling_of(k);
  const Windows<T> windows = windows_of<T>(k.s, k.image);
  const float* w = wide(static_cast<const T*>(k.w), k.scratch, N * K);
  float* tiles = k.scratch + wide_floats(k.dtype, N * K);
  for_tiles(t, [&](int64_t slot, int64_t r0, int64_t rows) {
    float* cols = tiles + slot * t.per * (K + wide_floats(k.out_dtype, N));
    Out* map = static_cast<Out*>(k.map) + r0 * N;
    float* out = write_row(map, cols + t.per * K);
    windows.gather(r0, rows, 0, K, cols);
    const bool in_place = k.out_dtype == DType::kF32;
    const float beta = start_rows(static_cast<const T*>(k.bias), N, out, rows, k.accumulate && in_place);
    product({false, true}, rows, N, K, cols, w, beta, out, stream);
    if (!in_place) store(out, map, rows * N, k.accumulate);
  });
}

// --- the adjoint ----------------------------------------------------------------------------------------------------

Tiling tiling_of(const ConvAdjoint& k) {
  const ConvShape& s = k.s;
  if (s.tiles()) return tile(s.rows(), s.depth() + wide_floats(k.dtype, s.out_channels), s.rows() * s.weight_numel());
  // Phase 0 sees most kernel elements, and no phase has more positions than these.
  const int64_t rows = s.batch * ((s.h.image - 1) / s.h.stride + 1) * ((s.w.image - 1) / s.w.stride + 1);
  const int64_t depth = s.h.taps(0) * s.w.taps(0) * s.out_channels;
  return tile(rows, depth + s.channels, rows * depth * s.channels);
}

// Windows that do not overlap: rows of the map times the weight are the windows' elements, stored where they belong.
template <class T, class Out>
void run_tiles(const ConvAdjoint& k, Stream& stream) {
  const ConvShape& s = k.s;
  const int64_t N = s.out_channels, K = s.depth(), run = s.w.kernel * s.channels;
  const Tiling t = tiling_of(k);
  const float* w = wide(static_cast<const T*>(k.w), k.scratch, N * K);
  float* tiles = k.scratch + wide_floats(k.dtype, N * K);
  for_tiles(t, [&](int64_t slot, int64_t r0, int64_t rows) {
    float* out = tiles + slot * t.per * (K + wide_floats(k.dtype, N));
    const float* map = wide(static_cast<const T*>(k.map) + r0 * N, out + t.per * K, rows * N);
    // A window holds kernel_h * kernel_w pixels, each begun with the bias.
    const float beta =
        start_rows(static_cast<const T*>(k.bias), s.channels, out, rows * s.h.kernel * s.w.kernel, false);
    product({false, false}, rows, K, N, map, w, beta, out, stream);
    for (int64_t r = r0; r < r0 + rows; ++r)
      for (int64_t ky = 0; ky < s.h.kernel; ++ky, out += run) {
        const int64_t line = r / s.w.out * s.h.kernel + ky;  // of all images, since windows tile them
        store(out, static_cast<Out*>(k.image) + line * s.w.image * s.channels + r % s.w.out * run, run, k.accumulate);
      }
  });
}

// A phase of the image: positions first + stride * i of both dims, and the kernel elements they see.
struct Phase {
  int64_t a, b;  // of rows and columns
  int64_t taps_h, taps_w;
  int64_t count_h, count_w;
  int64_t depth;
};

Phase phase_of(const ConvShape& s, int64_t a, int64_t b) {
  return {a, b, s.h.taps(a), s.w.taps(b), s.h.count(a), s.w.count(b), s.h.taps(a) * s.w.taps(b) * s.out_channels};
}

// The map's windows that the positions of a phase see: position i reads map rows q - j for its kernel elements
// a + j * stride, where q = (i + pad - a) / stride.
template <class T>
Windows<T> windows_of(const ConvAdjoint& k, const Phase& p) {
  const auto begin = [](const ConvAxis& x, int64_t phase, int64_t taps) {
    return (x.first(phase) + x.pad - phase) / x.stride - (taps - 1);
  };
  return {static_cast<const T*>(k.map),
          k.s.h.out,
          k.s.w.out,
          k.s.out_channels,
          p.count_h,
          p.count_w,
          p.taps_h,
          p.taps_w,
          1,
          1,
          begin(k.s.h, p.a, p.taps_h),
          begin(k.s.w, p.b, p.taps_w)};
}

// The weight of a phase (taps_h, taps_w, out_channels, channels): its kernel elements in falling order.
template <class T>
void phase_weight(const ConvAdjoint& k, const Phase& p, float* out) {
  const ConvShape& s = k.s;
  const int64_t N = s.out_channels, C = s.channels;
  parallel_for(p.depth, std::max<int64_t>(1, (int64_t{1} << 16) / C), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t o = i % N, l = i / N % p.taps_w, j = i / N / p.taps_w;
      const int64_t ky = p.a + s.h.stride * (p.taps_h - 1 - j), kx = p.b + s.w.stride * (p.taps_w - 1 - l);
      convert(static_cast<const T*>(k.w) + ((o * s.h.kernel + ky) * s.w.kernel + kx) * C, out + i * C, C);
    }
  });
}

template <class T, class Out>
void run_phase(const ConvAdjoint& k, const Phase& p, Stream& stream) {
  const ConvShape& s = k.s;
  const int64_t C = s.channels, K = p.depth;
  const Tiling all = tiling_of(k), t = all.over(s.batch * p.count_h * p.count_w);
  const int64_t slot_floats = all.per * (s.h.taps(0) * s.w.taps(0) * s.out_channels + C);
  const Windows<T> windows = windows_of<T>(k, p);
  phase_weight<T>(k, p, k.scratch);
  float* tiles = k.scratch + s.h.taps(0) * s.w.taps(0) * s.out_channels * C;
  const bool in_place = k.out_dtype == DType::kF32 && s.h.stride == 1 && s.w.stride == 1;
  for_tiles(t, [&](int64_t slot, int64_t r0, int64_t rows) {
    float* cols = tiles + slot * slot_floats;
    Out* image = static_cast<Out*>(k.image);
    float* out = in_place ? write_row(image + r0 * C, cols) : cols + all.per * K;
    const float beta = start_rows(static_cast<const T*>(k.bias), C, out, rows, k.accumulate && in_place);
    if (K > 0) windows.gather(r0, rows, 0, K, cols);  // else a gap between windows
    product({false, false}, rows, C, K, cols, k.scratch, beta, out, stream);
    if (in_place) return;
    for (int64_t r = r0; r < r0 + rows; ++r, out += C) {
      const int64_t x = s.w.first(p.b) + r % p.count_w * s.w.stride;
      const int64_t y = s.h.first(p.a) + r / p.count_w % p.count_h * s.h.stride;
      const int64_t picture = r / (p.count_w * p.count_h);
      store(out, image + ((picture * s.h.image + y) * s.w.image + x) * C, C, k.accumulate);
    }
  });
}

template <class T, class Out>
void run_adjoint(const ConvAdjoint& k, Stream& stream) {
  if (k.s.tiles()) return run_tiles<T, Out>(k, stream);
  for (int64_t a = 0; a < k.s.h.stride; ++a)
    for (int64_t b = 0; b < k.s.w.stride; ++b) run_phase<T, Out>(k, phase_of(k.s, a, b), stream);
}

// --- the weight's gradient ------------------------------------------------------------------------------------------

// Threads share the columns of dw: every element has one owner, which adds the tiles in order.
struct Columns {
  int64_t per, slots;  // rows of a tile, threads
  int64_t begin(int64_t slot, int64_t depth) const {
    return slot == slots ? depth : depth * slot / slots / 16 * 16;  // whole registers of the product
  }
};

Columns columns_of(const ConvWeightGrad& k) {
  const int64_t wide_map = wide_floats(k.dtype, k.s.out_channels);
  const int64_t slots = std::clamp<int64_t>(k.s.depth() / 32, 1, threads_for(k.s.rows() * k.s.weight_numel()));
  const int64_t fit = std::clamp<int64_t>(kTileFloats / (k.s.depth() + slots * wide_map), 16, 2 * kTileRows);
  return {std::clamp<int64_t>(k.s.rows(), 1, fit), slots};
}

template <class T>
void run_weight_grad(const ConvWeightGrad& k, Stream& stream) {
  const int64_t N = k.s.out_channels, K = k.s.depth(), rows_all = k.s.rows();
  const Columns c = columns_of(k);
  const Windows<T> windows = windows_of<T>(k.s, k.image);
  parallel_for(c.slots, 1, [&](int64_t first, int64_t last) {
    for (int64_t slot = first; slot < last; ++slot) {
      const int64_t k0 = c.begin(slot, K), width = c.begin(slot + 1, K) - k0;
      float *cols = k.scratch + c.per * k0, *sums = k.scratch + c.per * K + N * k0;
      float* wide_map = k.scratch + (c.per + N) * K + slot * c.per * N;
      for (int64_t r0 = 0; r0 < std::max<int64_t>(rows_all, 1); r0 += c.per) {  // no rows: sums of 0
        const int64_t rows = std::min(c.per, rows_all - r0);
        const float* map = wide(static_cast<const T*>(k.map) + r0 * N, wide_map, rows * N);
        windows.gather(r0, rows, k0, k0 + width, cols);
        product({true, false}, N, width, rows, map, cols, r0 == 0 ? 0.0f : 1.0f, sums, stream);
      }
      for (int64_t o = 0; o < N; ++o) store(sums + o * width, k.dw + o * K + k0, width, k.accumulate);
    }
  });
}

}  // namespace

int64_t ConvWindows::scratch_floats() const {
  const Tiling t = tiling_of(*this);
  return wide_floats(dtype, s.weight_numel()) + t.slots * t.per * (s.depth() + wide_floats(out_dtype, s.out_channels));
}

int64_t ConvAdjoint::scratch_floats() const {
  const Tiling t = tiling_of(*this);
  if (s.tiles())
    return wide_floats(dtype, s.weight_numel()) + t.slots * t.per * (s.depth() + wide_floats(dtype, s.out_channels));
  const int64_t depth = s.h.taps(0) * s.w.taps(0) * s.out_channels;
  return depth * s.channels + t.slots * t.per * (depth + s.channels);
}

int64_t ConvWeightGrad::scratch_floats() const {
  const Columns c = columns_of(*this);
  return s.weight_numel() + c.per * (s.depth() + c.slots * wide_floats(dtype, s.out_channels));
}

void run(const ConvWindows& k, Cpu, Stream& stream) {
  with_storage(k.dtype,
               [&]<class T>() { with_storage(k.out_dtype, [&]<class Out>() { run_windows<T, Out>(k, stream); }); });
}

void run(const ConvAdjoint& k, Cpu, Stream& stream) {
  with_storage(k.dtype,
               [&]<class T>() { with_storage(k.out_dtype, [&]<class Out>() { run_adjoint<T, Out>(k, stream); }); });
}

void run(const ConvWeightGrad& k, Cpu, Stream& stream) {
  with_storage(k.dtype, [&]<class T>() { run_weight_grad<T>(k, stream); });
}

}  // namespace tpo
