#include "core/ops/embedding.h"

#include <vector>

#include "core/kernels/basic.h"
#include "core/kernels/embedding.h"
#include "core/kernels/gemm.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

// Rows that a table holds of one with `all` rows.
struct Part {
  int64_t first, all;
};

// table[ids], with the gradient scattered back.
Tensor gather(const char* op, const Tensor& table, const Tensor& ids, const char* what, Part part) {
  check_float(op, table, "table");
  check_i32_vector(op, ids, what);
  check_shape(table.rank() == 2, "[", op, "] table ", table.shape(), " must be a matrix; ", what, " is ", ids.shape());
  check_in_range(op, what, ids, part.all);
  const int64_t N = ids.dim(0), C = table.dim(1), V = table.dim(0), first = part.first;
  Tensor y = Tensor::empty({N, C}, table.dtype());
  launch(GatherRows{raw(table), i32(ids), raw(y), N, C * width_of(y.dtype()), first, V});
  record(op, {table}, {&y}, [ids = ids.detach(), N, C, V, first](std::span<const Tensor> dy, GradSink& dx) {
    fp32_destination(dx, 0, [&](const Tensor& g, bool accumulate) {
      if (!accumulate) launch(FillZero{g.raw(), g.nbytes()});
      launch(ScatterAddRows{raw(dy[0]), i32(ids), f32(g), N, C, dy[0].dtype(), first, V});
    });
  });
  return y;
}

void check_distinct(const Tensor& idx, int64_t rows) {
  if (idx.device() != Device::kCpu) return;
  std::vector<bool> seen(static_cast<size_t>(rows));
  const int32_t* p = idx.data<int32_t>();
  for (int64_t k = 0; k < idx.numel(); ++k) {
    const auto row = static_cast<size_t>(p[k]);
    check<DataError>(!seen[row], "[overwrite_rows] idx[", k, "] repeats row ", row, "; rows must be distinct");
    seen[row] = true;
  }
}

}  // namespace

Tensor embedding(const Tensor& table, const Tensor& ids) {
  return gather("embedding", table, ids, "ids", {0, table.dim(0)});
}

Tensor embedding_part(const Tensor& table, const Tensor& ids, int64_t first, int64_t vocabulary) {
  check_shape(first >= 0 && first + table.dim(0) <= vocabulary, "[embedding_part] table ", table.shape(),
              " has rows from ", first, " on, more than a vocabulary of ", vocabulary);
  return gather("embedding_part", table, ids, "ids", {first, vocabulary});
}

Tensor gather_rows(const Tensor& x, const Tensor& idx) { return gather("gather_rows", x, idx, "idx", {0, x.dim(0)}); }

Tensor overwrite_rows(const Tensor& x, const Tensor& idx, const Tensor& src) {
  check_float("overwrite_rows", x, "x");
  check_like("overwrite_rows", src, "src", x);
  check_i32_vector("overwrite_rows", idx, "idx");
  check_shape(x.rank() == 2 && src.shape() == Shape({idx.dim(0), x.dim(1)}), "[overwrite_rows] src ", src.shape(),
              " must be (K, C) for x ", x.shape(), " of (N, C) and idx ", idx.shape(), " of (K)");
  check_in_range("overwrite_rows", "idx", idx, x.dim(0));
  check_distinct(idx, x.dim(0));
  const int64_t K = idx.dim(0), C = x.dim(1), row = C * width_of(x.dtype());
  Tensor y = empty_like(x);
  launch(CopyBytes{y.raw(), x.raw(), x.nbytes()});
  launch(SetRows{raw(src), i32(idx), raw(y), K, row});
  record("overwrite_rows", {x, src}, {&y}, [idx = idx.detach(), K, C, row](std::span<const Tensor> dy, GradSink& dx) {
    if (dx.wants(1)) {
      Tensor dsrc = Tensor::empty({K, C}, dy[0].dtype());
      launch(GatherRows{raw(dy[0]), i32(idx), raw(dsrc), K, row});
      dx.add(1, dsrc);
    }
    if (dx.wants(0)) {
      const Tensor g = reuse(dy[0]);
      if (g.raw() != dy[0].raw()) launch(CopyBytes{g.raw(), dy[0].raw(), g.nbytes()});
      launch(SetRows{nullptr, i32(idx), raw(g), K, row});
      dx.add(0, g);
    }
  });
  return y;
}

Tensor scatter_add_rows(const Tensor& src, const Tensor& idx, int64_t rows) {
  check_float("scatter_add_rows", src, "src");
  check_i32_vector("scatter_add_rows", idx, "idx");
  check_shape(src.rank() == 2 && src.dim(0) == idx.dim(0) && rows >= 0, "[scatter_add_rows] src ", src.shape(),
              " must be (N, C) for idx ", idx.shape(), " of (N), and rows ", rows, " not negative");
  check_in_range("scatter_add_rows", "idx", idx, rows);
  const int64_t N = src.dim(0), C = src.dim(1);
  const Tensor sums = Tensor::empty({rows, C});
  launch(FillZero{raw(sums), sums.nbytes()});
  launch(ScatterAddRows{raw(src), i32(idx), f32(sums), N, C, src.dtype()});
  Tensor y = sums;
  if (src.dtype() != DType::kF32) {
    y = Tensor::empty({rows, C}, src.dtype());
    launch(Cast{raw(sums), raw(y), y.numel(), sums.dtype(), y.dtype()});
  }
  record("scatter_add_rows", {src}, {&y}, [idx = idx.detach(), N, C](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor g = Tensor::empty({N, C}, dy[0].dtype());
    launch(GatherRows{raw(dy[0]), i32(idx), raw(g), N, C * width_of(g.dtype())});
    dx.add(0, g);
  });
  return y;
}

Tensor broadcast_rows(const Tensor& x, int64_t n) {
  check_float("broadcast_rows", x, "x");
  check_shape((x.rank() == 1 || (x.rank() == 2 && x.dim(0) == 1)) && n >= 0, "[broadcast_rows] x ", x.shape(),
              " must be (1, C) or (C) and n ", n, " not negative");
  const int64_t C = last_dim(x);
  Tensor y = Tensor::empty({n, C}, x.dtype());
  launch(BroadcastRows{raw(x), raw(y), n, C * width_of(x.dtype())});
  record("broadcast_rows", {x}, {&y}, [n, C](std::span<const Tensor> dy, GradSink& dx) {
    fp32_destination(dx, 0, [&](const Tensor& g, bool accumulate) {
      launch(ColumnSums{raw(dy[0]), f32(g), n, C, accumulate, dy[0].dtype()});
    });
  });
  return y;
}

}  // namespace tpo
