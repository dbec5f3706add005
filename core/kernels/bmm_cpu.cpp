// A small product: the right operand is read in panels of 16 columns, where it lies if they are contiguous, else
// packed; 6 rows x 16 columns of the result are summed in registers.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/kernels/bmm.h"
#include "core/kernels/gemm.h"
#include "core/kernels/simd.h"
#include "core/kernels/storage.h"
#include "core/parallel_for.h"
#include "core/stream.h"

namespace tpo {

namespace {

using simd::F8;

constexpr int64_t kRows = 6;                  // 6 x 2 vectors of sums, 2 of b and 1 of a fill the 16 registers of AVX2
constexpr int64_t kPanel = 16;                // columns: two vectors
constexpr int64_t kTiledWork = 96 * 96 * 96;  // m n k
constexpr int64_t kThreadedWork = 128 * 128 * 128;  // from here on a product is worth all threads
constexpr int64_t kGrainWork = 64 * 64 * 64 / 2;    // of a thread, 5 us: about what a parallel region costs

// Products a thread should get at least.
int64_t grain_of(const Bmm& k) { return std::max<int64_t>(1, kGrainWork / std::max<int64_t>(1, k.m * k.n * k.k)); }

// Elements (i, d) of the left operand at a[i * row + d * step], of the right one (d, j) at b[d * row + j].
struct LeftView {
  const float* p;
  int64_t row, step;
};
struct PanelView {
  const float* p;
  int64_t row;
};

// sums (kR x 16) = a (kR x depth) * b (depth x 16). Not inlined: the loop needs all registers.
template <int kR>
[[gnu::noinline]] void tile(LeftView a, PanelView b, int64_t depth, float* sums) {
  F8 lo[kR], hi[kR];
#pragma GCC unroll 6
  for (int i = 0; i < kR; ++i) lo[i] = hi[i] = F8::zero();
  for (int64_t d = 0; d < depth; ++d, a.p += a.step, b.p += b.row) {
    const F8 b0 = F8::load(b.p), b1 = F8::load(b.p + 8);
#pragma GCC unroll 6
    for (int i = 0; i < kR; ++i) {
      const F8 x(a.p[i * a.row]);
      lo[i] = fma(x, b0, lo[i]);
      hi[i] = fma(x, b1, hi[i]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kR; ++i) {
    lo[i].store(sums + i * kPanel);
    hi[i].store(sums + i * kPanel + 8);
  }
}

template <int kR = kRows>
void tile_rows(int64_t rows, LeftView a, PanelView b, int64_t depth, float* sums) {
  if constexpr (kR > 1)
    if (rows < kR) return tile_rows<kR - 1>(rows, a, b, depth, sums);
  tile<kR>(a, b, depth, sums);
}

// Columns [j, j + 16) of op(b) (k, n), packed with zeros beyond n unless they lie contiguous.
PanelView panel_of(const float* b, const Bmm& s, int64_t j, std::vector<float>& packed) {
  const int64_t width = std::min(kPanel, s.n - j);
  if (!s.trans_b && width == kPanel) return {b + j, s.n};
  packed.assign(static_cast<size_t>(s.k * kPanel), 0.0f);
  if (!s.trans_b) {
    for (int64_t d = 0; d < s.k; ++d) std::copy_n(b + d * s.n + j, width, packed.data() + d * kPanel);
    return {packed.data(), kPanel};
  }
  const int64_t whole_cols = width / 8 * 8, whole_depth = s.k / 8 * 8;  // what goes through registers, 8 x 8 at a time
  for (int64_t c = 0; c < whole_cols; c += 8)
    for (int64_t d = 0; d < whole_depth; d += 8)
      simd::transpose8(b + (j + c) * s.k + d, s.k, packed.data() + d * kPanel + c, kPanel);
  for (int64_t c = 0; c < width; ++c)
    for (int64_t d = c < whole_cols ? whole_depth : 0; d < s.k; ++d)
      packed[static_cast<size_t>(d * kPanel + c)] = b[(j + c) * s.k + d];
  return {packed.data(), kPanel};
}

template <class Out>
void small_product(const Bmm& s, const float* a, const float* b, Out* c, std::vector<float>& packed) {
  float sums[kRows * kPanel];
  for (int64_t j = 0; j < s.n; j += kPanel) {
    const PanelView panel = panel_of(b, s, j, packed);
    const int64_t width = std::min(kPanel, s.n - j);
    for (int64_t i = 0; i < s.m; i += kRows) {
      const int64_t rows = std::min(kRows, s.m - i);
      tile_rows(rows, s.trans_a ? LeftView{a + i, 1, s.m} : LeftView{a + i * s.k, s.k, 1}, panel, s.k, sums);
      for (int64_t r = 0; r < rows; ++r) {
        Out* out = c + (i + r) * s.n + j;
        const float* sum = sums + r * kPanel;
        if (s.accumulate) {
          for (int64_t q = 0; q < width; ++q) out[q] = narrow<Out>(widen(out[q]) + sum[q]);
        } else {
          convert(sum, out, width);
        }
      }
    }
  }
}

template <class In, class Out>
void small_products(const Bmm& k, int64_t begin, int64_t end) {
  const int64_t a_numel = k.m * k.k, b_numel = k.k * k.n;
  const bool widened = !std::is_same_v<In, float>;
  std::vector<float> a(static_cast<size_t>(widened ? a_numel : 0)), b(static_cast<size_t>(widened ? b_numel : 0)),
      packed;
  for (int64_t i = begin; i < end; ++i)
    small_product(k, read_row(static_cast<const In*>(k.a) + i * a_numel, a.data(), a_numel),
                  read_row(static_cast<const In*>(k.b) + i * b_numel, b.data(), b_numel),
                  static_cast<Out*>(k.c) + i * k.m * k.n, packed);
}

// run(Gemm) takes one thread inside a parallel region, all of them outside.
void as_gemms(const Bmm& k, Stream& stream) {
  const auto products = [&](int64_t begin, int64_t end) {
    const int64_t a_bytes = k.m * k.k * width_of(k.dtype), b_bytes = k.k * k.n * width_of(k.dtype),
                  c_bytes = k.m * k.n * width_of(k.out_dtype);
    for (int64_t i = begin; i < end; ++i)
      run(Gemm{static_cast<const char*>(k.a) + i * a_bytes, static_cast<const char*>(k.b) + i * b_bytes,
               static_cast<char*>(k.c) + i * c_bytes, k.m, k.n, k.k, k.trans_a, k.trans_b, 1,
               k.accumulate ? 1.0f : 0.0f, k.dtype, k.out_dtype},
          Cpu{}, stream);
  };
  if (k.m * k.n * k.k > kThreadedWork || k.batch < num_threads()) return products(0, k.batch);
  parallel_for(k.batch, grain_of(k), products);
}

// Measured with one thread on Zen 5 against OpenBLAS 0.3.21, not since against the tiles of run(Gemm), which came later
// (gemm_panels.h): these tiles were ahead where BLAS pays for a call (16^3 and below) and where few rows meet a right
// operand that lies as they read it (7 x 64 x 256: 90 to 43 GFLOP/s); BLAS was elsewhere, by 3 to 20 %. The way of
// run(Gemm) with bf16 is made for large blocks.
bool in_tiles(const Bmm& k) {
  const int64_t work = k.m * k.n * k.k;
  if (k.dtype == DType::kBF16) return work <= kTiledWork;
  return work <= 16 * 16 * 16 || (k.m <= 2 * kRows && k.m > 1 && !k.trans_b && work <= kTiledWork);
}

}  // namespace

void run(const Bmm& k, Cpu, Stream& stream) {
  if (k.batch == 0 || k.m == 0 || k.n == 0) return;
  if (!in_tiles(k)) return as_gemms(k, stream);
  with_storage(k.dtype, [&]<class In>() {
    with_storage(k.out_dtype, [&]<class Out>() {
      parallel_for(k.batch, grain_of(k), [&](int64_t begin, int64_t end) { small_products<In, Out>(k, begin, end); });
    });
  });
}

}  // namespace tpo
