#include "core/ops/index.h"

#include "core/kernels/index.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

// Every index of idx (..., K) in [0, cols), and the leading dims of like (..., *).
void check_index(const char* op, const Tensor& idx, int64_t cols, const Tensor& like) {
  check_shape(idx.defined() && idx.dtype() == DType::kI32, "[", op, "] idx must be i32");
  check_shape(idx.rank() == like.rank() && idx.shape().with_last(last_dim(like)) == like.shape(), "[", op, "] idx ",
              idx.shape(), " must have the leading dims of ", like.shape());
  check_in_range(op, "idx", idx, cols);
}

void scatter(const Tensor& src, const Tensor& idx, const Tensor& out, bool accumulate) {
  launch(ScatterAddElements{raw(src), i32(idx), raw(out), rows_of(idx), last_dim(out), last_dim(idx), accumulate,
                            src.dtype(), out.dtype()});
}

void gather(const Tensor& x, const Tensor& idx, const Tensor& y) {
  launch(GatherElements{raw(x), i32(idx), raw(y), rows_of(idx), last_dim(x), last_dim(idx), x.dtype()});
}

// The gradient of input 0 of which the op picked idx.
Backward scatter_back(const Tensor& idx) {
  return [idx = idx.detach()](std::span<const Tensor> dy, GradSink& dx) {
    const GradDest d = dx.destination(0);
    scatter(dy[0], idx, d.grad, d.accumulate);
  };
}

}  // namespace

Tensor gather_last(const Tensor& x, const Tensor& idx) {
  check_float("gather_last", x, "x");
  check_index("gather_last", idx, last_dim(x), x);
  Tensor y = Tensor::empty(idx.shape(), x.dtype());
  gather(x, idx, y);
  record("gather_last", {x}, {&y}, scatter_back(idx));
  return y;
}

Tensor gather_ids(const Tensor& ids, const Tensor& idx) {
  check_shape(ids.defined() && ids.dtype() == DType::kI64 && ids.rank() == 1,
              "[gather_ids] ids must be a vector of i64");
  check_i32_vector("gather_ids", idx, "idx");
  check_in_range("gather_ids", "idx", idx, ids.dim(0));
  Tensor y = Tensor::empty(idx.shape(), DType::kI64);
  launch(GatherIds{static_cast<const int64_t*>(ids.raw()), i32(idx), static_cast<int64_t*>(y.raw()), idx.numel()});
  record_data("gather_ids");
  return y;
}

Tensor scatter_add_last(const Tensor& src, const Tensor& idx, int64_t cols) {
  check_float("scatter_add_last", src, "src");
  check_shape(cols >= 0 && idx.defined() && idx.shape() == src.shape(),
              "[scatter_add_last] idx must have the shape of src ", src.shape(), " and cols ", cols,
              " not be negative");
  check_index("scatter_add_last", idx, cols, src);
  Tensor y = Tensor::empty(src.shape().with_last(cols), src.dtype());
  scatter(src, idx, y, false);
  record("scatter_add_last", {src}, {&y}, [idx = idx.detach()](std::span<const Tensor> dy, GradSink& dx) {
    const Tensor g = Tensor::empty(idx.shape(), dy[0].dtype());
    gather(dy[0], idx, g);
    dx.add(0, g);
  });
  return y;
}

TopK top_k(const Tensor& x, int64_t k) {
  check_float("top_k", x, "x");
  check_shape(k >= 1 && k <= last_dim(x), "[top_k] k is ", k, ", must be in 1..C for x ", x.shape(), " of (..., C)");
  const Shape out = x.shape().with_last(k);
  TopK top{Tensor::empty(out, x.dtype()), Tensor::empty(out, DType::kI32)};
  launch(TopKRows{raw(x), raw(top.values), static_cast<int32_t*>(raw(top.indices)), rows_of(x), last_dim(x), k,
                  x.dtype()});
  record("top_k", {x}, {&top.values}, scatter_back(top.indices));
  return top;
}

Tensor one_hot(const Tensor& idx, int64_t cols, DType dtype) {
  check_i32_vector("one_hot", idx, "idx");
  check_shape(is_float(dtype) && cols >= 0, "[one_hot] ", cols, " columns of ", dtype, ", must be f32 or bf16");
  check_in_range("one_hot", "idx", idx, cols);
  Tensor y = Tensor::empty({idx.dim(0), cols}, dtype);
  launch(OneHot{i32(idx), raw(y), idx.dim(0), cols, dtype});
  record_data("one_hot");
  return y;
}

}  // namespace tpo
