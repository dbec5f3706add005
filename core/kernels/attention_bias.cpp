#include "core/kernels/attention_bias.h"

namespace tpo::attention {

namespace {

int64_t wide(int64_t n) { return tile::round_up(n, kPanel); }

// y[j * y_row + i] = x[i * x_row + j] for i < rows, j < cols.
void transpose(const float* x, int64_t x_row, int64_t rows, int64_t cols, float* y, int64_t y_row) {
  for (int64_t i = 0; i < rows; i += 8)
    for (int64_t j = 0; j < cols; j += 8) {
      if (i + 8 <= rows && j + 8 <= cols) {
        simd::transpose8(x + i * x_row + j, x_row, y + j * y_row + i, y_row);
        continue;
      }
      for (int64_t r = i; r < std::min(rows, i + 8); ++r)
        for (int64_t c = j; c < std::min(cols, j + 8); ++c) y[c * y_row + r] = x[r * x_row + c];
    }
}

}  // namespace

int64_t PanelBias::floats(const AttentionBiasView& b, int64_t keys) {
  const int64_t grid = wide(b.grid_h) + wide(b.grid_w);
  return (b.full == nullptr ? 0 : 2 * keys * kPanel) + (b.rel_h.p == nullptr ? 0 : 3 * grid * kPanel);
}

PanelBias::PanelBias(const AttentionBiasView& b, int64_t q_rows, int64_t keys, float* memory) : b_(b), q_rows_(q_rows) {
  block_ = memory;
  rel_h_ = memory + (b.full == nullptr ? 0 : 2 * keys * kPanel);
  drel_h_ = rel_h_ + wide(b.grid_h) * kPanel;
  rel_w_ = drel_h_ + wide(b.grid_h) * kPanel;
  drel_w_ = rel_w_ + wide(b.grid_w) * kPanel;
  rows_ = drel_w_ + wide(b.grid_w) * kPanel;
  if (b.full != nullptr) std::fill(block_, block_ + keys * kPanel, 0.0f);  // lanes without a query stay finite
}

int64_t PanelBias::full_at(int64_t j0) const { return ((b_.heads == 1 ? 0 : head_) * q_rows_ + row_) * b_.cols + j0; }

void PanelBias::begin(int64_t row, int64_t n, int64_t head) {
  row_ = row, n_ = n, head_ = head;
  if (b_.rel_h.p == nullptr) return;
  load_rows(b_.rel_h, nullptr, row, n, head, b_.grid_h, kLog2e, rows_, kPanel);
  transpose_panel(rows_, kPanel, n, b_.grid_h, rel_h_);
  load_rows(b_.rel_w, nullptr, row, n, head, b_.grid_w, kLog2e, rows_, kPanel);
  transpose_panel(rows_, kPanel, n, b_.grid_w, rel_w_);
  std::fill(drel_h_, drel_h_ + b_.grid_h * kPanel, 0.0f);
  std::fill(drel_w_, drel_w_ + b_.grid_w * kPanel, 0.0f);
}

void PanelBias::add(const ScoreTile& t, float* scores) const {
  if (b_.full != nullptr) {
    transpose(b_.full + full_at(t.j0), b_.cols, n_, t.cols, block_, kPanel);
    for (int64_t i = 0; i < t.cols * kPanel; i += kLanes)
      fma(Vec::load(block_ + i), Vec(kLog2e), Vec::load(scores + i)).store(scores + i);
  }
  if (b_.rel_h.p == nullptr) return;
  int64_t a = t.j0 / b_.grid_w, b = t.j0 % b_.grid_w;
  for (int64_t j = 0; j < t.cols; ++j, scores += kPanel) {
    for (int64_t v = 0; v < kPanel; v += kLanes)
      (Vec::load(scores + v) + (Vec::load(rel_h_ + a * kPanel + v) + Vec::load(rel_w_ + b * kPanel + v)))
          .store(scores + v);
    if (++b == b_.grid_w) b = 0, ++a;
  }
}

void PanelBias::add_gradient(const ScoreTile& t, const float* ds, const AttentionBiasGrad& g) {
  for (int64_t v = 0; v < t.vectors() && g.full != nullptr; ++v) {
    const int64_t some = t.seen_by_some(v), first = v * kLanes;
    float* rows = block_ + t.cols * kPanel;
    transpose(ds + first, kPanel, some, kLanes, rows, t.cols);
    for (int64_t i = first; i < std::min(n_, first + kLanes); ++i, rows += t.cols) {
      float* out = g.full + full_at(t.j0) + i * b_.cols;
#pragma omp simd
      for (int64_t j = 0; j < some; ++j) out[j] += rows[j];
    }
  }
  if (g.rel_h.p == nullptr && g.rel_w.p == nullptr) return;
  for (int64_t v = 0; v < t.vectors(); ++v) {
    int64_t a = t.j0 / b_.grid_w, b = t.j0 % b_.grid_w;
    for (int64_t j = 0, some = t.seen_by_some(v); j < some; ++j) {
      const Vec x = Vec::load(ds + j * kPanel + v * kLanes);
      float *h = drel_h_ + a * kPanel + v * kLanes, *w = drel_w_ + b * kPanel + v * kLanes;
      (Vec::load(h) + x).store(h);
      (Vec::load(w) + x).store(w);
      if (++b == b_.grid_w) b = 0, ++a;
    }
  }
}

void PanelBias::finish(const AttentionBiasGrad& g) const {
  const auto write = [&](const float* sums, int64_t grid, const HeadView& to, bool accumulate) {
    if (to.p == nullptr) return;
    for (int64_t d = 0; d < grid; d += kPanel)
      transpose(sums + d * kPanel, kPanel, std::min(kPanel, grid - d), n_, rows_ + d * kPanel, kPanel);
    store_rows(rows_, kPanel, 1.0f, to, nullptr, row_, n_, head_, grid, accumulate);
  };
  write(drel_h_, b_.grid_h, g.rel_h, g.accumulate_h);
  write(drel_w_, b_.grid_w, g.rel_w, g.accumulate_w);
}

}  // namespace tpo::attention
