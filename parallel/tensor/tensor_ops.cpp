#include "parallel/tensor/tensor_ops.h"

#include <algorithm>

#include "core/error.h"
#include "core/kernels/basic.h"
#include "core/kernels/gemm.h"
#include "core/kernels/layout.h"
#include "core/kernels/pointwise.h"
#include "core/ops/op_util.h"
#include "parallel/comm/process_group.h"
#include "parallel/tensor/cut.h"

namespace tpo {

namespace {

// ---- collectives on the current stream

// What a collective is called: "language.layers.0.attn.q.weight: copy_to backward".
std::string called(std::string_view name, const char* op) { return name.empty() ? op : cat(name, ": ", op); }

void sum_in_place(const Tensor& x, ProcessGroup& tp, std::string_view what) {
  tp.all_reduce(x, ReduceOp::kSum, what).wait(Stream::current());
}

// Rows [0, rows) of the shards of all ranks, in order.
Tensor gather_shards(const Tensor& shard, int64_t rows, ProcessGroup& tp, std::string_view what) {
  const Tensor all = Tensor::empty({tp.size() * shard.dim(0), shard.dim(1)}, shard.dtype());
  tp.all_gather(shard, all, what).wait(Stream::current());
  return all.rows(0, rows);
}

// Copies rows [begin, end) of x into the first rows of y; the others are set to zero.
void copy_rows(const Tensor& x, int64_t begin, int64_t end, const Tensor& y) {
  const int64_t copied = std::max<int64_t>(0, end - begin);
  if (copied > 0) launch(CopyBytes{y.raw(), x.rows(begin, end).raw(), x.rows(begin, end).nbytes()});
  if (const Tensor rest = y.rows(copied, y.dim(0)); rest.numel() > 0) launch(FillZero{rest.raw(), rest.nbytes()});
}

// This rank's rows of a whole x, padded with zeros.
Tensor own_rows(const Tensor& x, ProcessGroup& tp) {
  const int64_t N = x.dim(0), R = shard_rows(N, tp);
  const Tensor y = Tensor::empty({R, x.dim(1)}, x.dtype());
  copy_rows(x, std::min(N, tp.rank() * R), std::min(N, (tp.rank() + 1) * R), y);
  return y;
}

// This rank's rows of the sum of x over ranks.
Tensor sum_own_rows(const Tensor& x, ProcessGroup& tp, std::string_view what) {
  const int64_t N = x.dim(0), C = x.dim(1), R = shard_rows(N, tp);
  Tensor whole = x.detach();
  if (R * tp.size() != N) {
    whole = Tensor::empty({R * tp.size(), C}, x.dtype());
    copy_rows(x, 0, N, whole);
  }
  const Tensor y = Tensor::empty({R, C}, x.dtype());
  tp.reduce_scatter(whole, y, ReduceOp::kSum, what).wait(Stream::current());
  return y;
}

// ---- checks and the bias that follows a sum

void check_matrix(const char* op, const Tensor& x) {
  check_float(op, x, "x");
  check_shape(x.rank() == 2, "[", op, "] x ", x.shape(), " must be a matrix");
}

void check_bias(const char* op, const Tensor& x, const Tensor& bias) {
  check_matrix(op, x);
  if (!bias.defined()) return;
  check_like(op, bias, "bias", x);
  check_shape(bias.shape() == Shape{x.dim(1)}, "[", op, "] bias ", bias.shape(), " must be (C) for x ", x.shape());
}

void check_shard(const char* op, const Tensor& x, int64_t rows, const ProcessGroup& tp) {
  check_matrix(op, x);
  check_shape(x.dim(0) == shard_rows(rows, tp), "[", op, "] x ", x.shape(), " must have ", shard_rows(rows, tp),
              " rows for ", rows, " rows over ", tp.size(), " ranks");
}

void add_in_place(const Tensor& y, const Tensor& bias) {
  if (bias.defined()) launch(AddBias{raw(y), raw(bias), raw(y), y.dim(0), y.dim(1), y.dtype()});
}

void bias_gradient(const Tensor& dy, GradSink& dx) {
  fp32_destination(dx, 1, [&](const Tensor& g, bool accumulate) {
    launch(ColumnSums{raw(dy), f32(g), dy.dim(0), dy.dim(1), accumulate, dy.dtype()});
  });
}

}  // namespace

int64_t shard_rows(int64_t rows, const ProcessGroup& tp) { return (rows + tp.size() - 1) / tp.size(); }

Tensor copy_to(const Tensor& x, ProcessGroup& tp, std::string_view name) {
  check_float("copy_to", x, "x");
  if (tp.size() == 1) return x;
  Tensor y = x.detach();
  record("copy_to", {x}, {&y}, [&tp, name](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor g = reuse(dy[0]);
    if (g.raw() != dy[0].raw()) launch(CopyBytes{g.raw(), dy[0].raw(), g.nbytes()});
    sum_in_place(g, tp, called(name, "copy_to backward"));
    dx.add(0, g);
  });
  return y;
}

Tensor reduce_from(const Tensor& x, ProcessGroup& tp, const Tensor& bias, std::string_view name) {
  check_bias("reduce_from", x, bias);
  if (tp.size() == 1 && !bias.defined()) return x;
  Tensor y = take_kept();
  if (!y.defined()) {
    y = x.detach();
    if (tp.size() > 1) sum_in_place(y, tp, called(name, "reduce_from"));
    add_in_place(y, bias);
    keep_instead(x, y);
  }
  record("reduce_from", {x, bias}, {&y}, [](std::span<const Tensor> dy, GradSink& dx) {
    bias_gradient(dy[0], dx);
    dx.add(0, dy[0]);
  });
  return y;
}

Tensor gather_from(const Tensor& shard, int64_t rows, ProcessGroup& tp, std::string_view name) {
  check_shard("gather_from", shard, rows, tp);
  if (tp.size() == 1) return shard;
  Tensor y = gather_shards(shard, rows, tp, called(name, "gather_from"));
  record("gather_from", {shard}, {&y}, [&tp, name](std::span<const Tensor> dy, GradSink& dx) {
    dx.add(0, sum_own_rows(dy[0], tp, called(name, "gather_from backward")));
  });
  return y;
}

Tensor reduce_scatter_to(const Tensor& x, ProcessGroup& tp, const Tensor& bias, std::string_view name) {
  check_bias("reduce_scatter_to", x, bias);
  if (tp.size() == 1) return reduce_from(x, tp, bias, name);
  Tensor y = take_kept();
  if (!y.defined()) {
    y = sum_own_rows(x, tp, called(name, "reduce_scatter_to"));
    add_in_place(y, bias);
    keep_instead(x, y);
  }
  record("reduce_scatter_to", {x, bias}, {&y}, [&tp, name, N = x.dim(0)](std::span<const Tensor> dy, GradSink& dx) {
    bias_gradient(dy[0], dx);
    if (dx.wants(0)) dx.add(0, gather_shards(dy[0], N, tp, called(name, "reduce_scatter_to backward")));
  });
  return y;
}

Tensor split_to(const Tensor& x, ProcessGroup& tp, std::string_view name) {
  check_matrix("split_to", x);
  if (tp.size() == 1) return x;
  Tensor y = own_rows(x, tp);
  record("split_to", {x}, {&y}, [&tp, name, N = x.dim(0)](std::span<const Tensor> dy, GradSink& dx) {
    dx.add(0, gather_shards(dy[0], N, tp, called(name, "split_to backward")));
  });
  return y;
}

Tensor join_from(const Tensor& shard, int64_t rows, ProcessGroup& tp, std::string_view name) {
  check_shard("join_from", shard, rows, tp);
  if (tp.size() == 1) return shard;
  Tensor y = gather_shards(shard, rows, tp, called(name, "join_from"));
  record("join_from", {shard}, {&y},
         [&tp](std::span<const Tensor> dy, GradSink& dx) { dx.add(0, own_rows(dy[0], tp)); });
  return y;
}

Tensor join_columns(const Tensor& x, int64_t columns, ProcessGroup& tp, std::string_view name) {
  check_matrix("join_columns", x);
  const int n = tp.size();
  const Range mine = balanced_part(columns, tp.rank(), n);
  check_shape(x.dim(1) == mine.size(), "[join_columns] x ", x.shape(), " must have ", mine.size(), " of ", columns,
              " columns on rank ", tp.rank(), " of ", n);
  if (n == 1) return x;
  const int64_t N = x.dim(0), width = width_of(x.dtype()), widest = (columns + n - 1) / n * width;
  const int64_t row = columns * width;
  const Tensor padded = Tensor::zeros({N * widest}, DType::kU8), all = Tensor::empty({n * N * widest}, DType::kU8);
  launch(CopyColumns{raw(x), raw(padded), N, mine.size() * width, mine.size() * width, widest});
  tp.all_gather(padded, all, called(name, "join_columns")).wait(Stream::current());
  Tensor y = Tensor::empty({N, columns}, x.dtype());
  for (int r = 0; r < n; ++r) {
    const Range part = balanced_part(columns, r, n);
    char* to = static_cast<char*>(y.raw()) + part.begin * width;
    launch(CopyColumns{static_cast<char*>(all.raw()) + r * N * widest, to, N, part.size() * width, widest, row});
  }
  record("join_columns", {x}, {&y}, [N, mine, width, row](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor g = Tensor::empty({N, mine.size()}, dy[0].dtype());
    const int64_t bytes = mine.size() * width;
    launch(CopyColumns{static_cast<char*>(dy[0].raw()) + mine.begin * width, raw(g), N, bytes, row, bytes});
    dx.add(0, g);
  });
  return y;
}

}  // namespace tpo
