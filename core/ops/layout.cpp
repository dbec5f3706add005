#include "core/ops/layout.h"

#include "core/kernels/basic.h"
#include "core/kernels/layout.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

bool same_trailing(const Tensor& a, const Tensor& b) {
  if (a.rank() != b.rank()) return false;
  for (int i = 1; i < a.rank(); ++i)
    if (a.dim(i) != b.dim(i)) return false;
  return true;
}

// Launches `cut` from x to a new tensor of `out`; the gradient is the inverse permutation.
Tensor permute(const char* op, const Tensor& x, const Shape& out, Patchify cut) {
  Tensor y = Tensor::empty(out, x.dtype());
  cut.src = raw(x), cut.dst = raw(y);
  launch(cut);
  record(op, {x}, {&y}, [cut, shape = x.shape()](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = Tensor::empty(shape, cut.dtype);
    Patchify back = cut;
    back.src = raw(dy[0]), back.dst = raw(gx), back.inverse = true;
    launch(back);
    dx.add(0, gx);
  });
  return y;
}

// Copies between the columns of `wide` from `at` on and all of `part`, seen as matrices; an undefined part is zeros.
void copy_part(const Tensor& wide, int64_t at, int64_t cols, const Tensor& part, bool into_wide) {
  const int64_t width = width_of(wide.dtype()), row = last_dim(wide) * width, bytes = cols * width;
  char* place = static_cast<char*>(raw(wide)) + at * width;
  if (into_wide) return launch(CopyColumns{raw(part), place, rows_of(wide), bytes, bytes, row});
  launch(CopyColumns{place, raw(part), rows_of(wide), bytes, row, bytes});
}

// Columns where the parts of these widths start, and their sum.
std::vector<int64_t> starts_of(std::span<const int64_t> widths) {
  std::vector<int64_t> starts{0};
  for (int64_t w : widths) starts.push_back(starts.back() + w);
  return starts;
}

}  // namespace

Tensor concat_rows(const std::vector<Tensor>& parts) {
  check_shape(!parts.empty(), "[concat_rows] needs at least one part");
  int64_t rows = 0;
  for (const Tensor& p : parts) {
    check_shape(p.defined() && p.rank() >= 1, "[concat_rows] a part is undefined or a scalar");
    check_shape(p.dtype() == parts[0].dtype() && same_trailing(p, parts[0]), "[concat_rows] part ", p.shape(), " ",
                p.dtype(), " does not fit ", parts[0].shape(), " ", parts[0].dtype());
    rows += p.dim(0);
  }
  Shape out{rows};
  for (int i = 1; i < parts[0].rank(); ++i) out.push_back(parts[0].dim(i));
  Tensor y = Tensor::empty(out, parts[0].dtype());
  std::vector<int64_t> starts{0};
  for (const Tensor& p : parts) {
    const Tensor to = y.rows(starts.back(), starts.back() + p.dim(0));
    launch(CopyBytes{to.raw(), p.raw(), p.nbytes()});
    starts.push_back(starts.back() + p.dim(0));
  }
  Tensor* const outs[1] = {&y};
  record("concat_rows", parts, outs, [starts](std::span<const Tensor> dy, GradSink& dx) {
    for (size_t i = 0; i + 1 < starts.size(); ++i) dx.add(static_cast<int>(i), dy[0].rows(starts[i], starts[i + 1]));
  });
  return y;
}

Tensor slice_rows(const Tensor& x, int64_t begin, int64_t end) {
  check_shape(x.defined() && x.rank() >= 1 && 0 <= begin && begin <= end && end <= x.dim(0), "[slice_rows] rows [",
              begin, ", ", end, ") of ", x.shape());
  Tensor y = x.rows(begin, end);
  record("slice_rows", {x}, {&y}, [begin, end](std::span<const Tensor> dy, GradSink& dx) {
    const GradDest d = dx.destination(0);
    const Tensor part = d.grad.rows(begin, end);
    launch(Cast{raw(dy[0]), raw(part), part.numel(), dy[0].dtype(), part.dtype(), d.accumulate});
    if (d.accumulate) return;
    for (const Tensor& rest : {d.grad.rows(0, begin), d.grad.rows(end, d.grad.dim(0))})
      launch(FillZero{raw(rest), rest.nbytes()});
  });
  return y;
}

Tensor transpose(const Tensor& x) {
  check_float("transpose", x, "x");
  check_shape(x.rank() == 2 || x.rank() == 3, "[transpose] x ", x.shape(), " must be (R, C) or (B, R, C)");
  const int64_t B = x.rank() == 3 ? x.dim(0) : 1, R = x.dim(-2), C = x.dim(-1);
  Tensor y = Tensor::empty(x.rank() == 3 ? Shape{B, C, R} : Shape{C, R}, x.dtype());
  launch(Transpose{raw(x), raw(y), B, R, C, x.dtype()});
  record("transpose", {x}, {&y}, [B, R, C, shape = x.shape()](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = Tensor::empty(shape, dy[0].dtype());
    launch(Transpose{raw(dy[0]), raw(gx), B, C, R, gx.dtype()});
    dx.add(0, gx);
  });
  return y;
}

Tensor swap_middle(const Tensor& x) {
  check_float("swap_middle", x, "x");
  check_shape(x.rank() == 4, "[swap_middle] x ", x.shape(), " must be (A, B, C, D)");
  const int64_t A = x.dim(0), B = x.dim(1), C = x.dim(2), D = x.dim(3), run = D * width_of(x.dtype());
  if (D == 1) return transpose(x.view({A, B, C})).view({A, C, B, 1});  // single elements turn in registers
  Tensor y = Tensor::empty({A, C, B, D}, x.dtype());
  launch(SwapMiddle{raw(x), raw(y), A, B, C, run});
  record("swap_middle", {x}, {&y}, [A, B, C, D, run](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor gx = Tensor::empty({A, B, C, D}, dy[0].dtype());
    launch(SwapMiddle{raw(dy[0]), raw(gx), A, C, B, run});
    dx.add(0, gx);
  });
  return y;
}

Tensor concat_last(const std::vector<Tensor>& parts) {
  check_shape(!parts.empty(), "[concat_last] needs at least one part");
  std::vector<int64_t> widths;
  for (const Tensor& p : parts) {
    check_float("concat_last", p, "a part");
    check_like("concat_last", p, "a part", parts[0]);
    check_shape(p.rank() == parts[0].rank() && p.shape().with_last(1) == parts[0].shape().with_last(1),
                "[concat_last] part ", p.shape(), " does not fit ", parts[0].shape(), " but for the last dim");
    widths.push_back(last_dim(p));
  }
  const std::vector<int64_t> starts = starts_of(widths);
  Tensor y = Tensor::empty(parts[0].shape().with_last(starts.back()), parts[0].dtype());
  for (size_t i = 0; i < parts.size(); ++i) copy_part(y, starts[i], widths[i], parts[i], true);
  Tensor* const outs[1] = {&y};
  record("concat_last", parts, outs, [starts](std::span<const Tensor> dy, GradSink& dx) {
    for (int i = 0; i + 1 < static_cast<int>(starts.size()); ++i) {
      if (!dx.wants(i)) continue;
      const int64_t at = starts[static_cast<size_t>(i)], cols = starts[static_cast<size_t>(i) + 1] - at;
      const Tensor g = Tensor::empty(dy[0].shape().with_last(cols), dy[0].dtype());
      copy_part(dy[0], at, cols, g, false);
      dx.add(i, g);
    }
  });
  return y;
}

std::vector<Tensor> split_last(const Tensor& x, const std::vector<int64_t>& widths) {
  check_float("split_last", x, "x");
  for (int64_t w : widths) check_shape(w >= 0, "[split_last] width ", w, " is negative");
  const std::vector<int64_t> starts = starts_of(widths);
  check_shape(starts.back() == last_dim(x), "[split_last] widths add to ", starts.back(), ", must be the last dim of ",
              x.shape());
  std::vector<Tensor> parts;
  std::vector<Tensor*> outs;
  parts.reserve(widths.size());
  for (size_t i = 0; i < widths.size(); ++i) {
    parts.push_back(Tensor::empty(x.shape().with_last(widths[i]), x.dtype()));
    copy_part(x, starts[i], widths[i], parts[i], false);
    outs.push_back(&parts[i]);
  }
  const Tensor in[1] = {x};
  record("split_last", in, outs,
         [widths, starts, shape = x.shape(), dtype = x.dtype()](std::span<const Tensor> dy, GradSink& dx) {
           const Tensor g = Tensor::empty(shape, dtype);
           for (size_t i = 0; i < widths.size(); ++i)
             copy_part(g, starts[i], widths[i], dy[i], true);  // zeros if unused
           dx.add(0, g);
         });
  return parts;
}

Tensor patchify(const Tensor& images, int64_t patch, int64_t tubelet) {
  check_float("patchify", images, "images");
  const Shape& s = images.shape();
  check_shape(s.rank() == 5, "[patchify] images ", s, " must be (I, T, H, W, C)");
  check_shape(patch >= 1 && tubelet >= 1 && s[1] % tubelet == 0 && s[2] >= patch && s[3] >= patch, "[patchify] images ",
              s, " (I, T, H, W, C) must divide by tubelet ", tubelet, " and have a patch of ", patch);
  const Shape out{s[0] * (s[1] / tubelet) * (s[2] / patch) * (s[3] / patch), tubelet * patch * patch * s[4]};
  return permute("patchify", images, out,
                 Patchify{nullptr, nullptr, s[0], s[1], s[2], s[3], s[4], tubelet, patch, false, images.dtype()});
}

Tensor merge_patches(const Tensor& x, int64_t h, int64_t w, int64_t m) {
  check_float("merge_patches", x, "x");
  check_shape(x.rank() == 2 && h >= 1 && w >= 1 && m >= 1 && h % m == 0 && w % m == 0 && x.dim(0) % (h * w) == 0,
              "[merge_patches] x ", x.shape(), " must be (I * h * w, C) with h ", h, " and w ", w, " multiples of m ",
              m);
  const int64_t images = x.dim(0) / (h * w), C = x.dim(1);
  const Shape out{images * (h / m) * (w / m), m * m * C};
  return permute("merge_patches", x, out, Patchify{nullptr, nullptr, images, 1, h, w, C, 1, m, false, x.dtype()});
}

}  // namespace tpo
