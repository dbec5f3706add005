#pragma once
// What a layer must know of the tensor axis, and the two ends of a branch that is cut over it:
//   y = x + tp.leave(cut_by_inputs(f(cut_by_outputs(tp.enter(norm(x))))))
// Without sequence parallelism the stream x is whole on every rank; with it a shard of rows (tensor_ops.h), which
// leaves norms and residual sums their rows only, for the same bytes on the wire.
#include "parallel/comm/process_group.h"
#include "parallel/tensor/tensor_ops.h"

namespace tpo {

struct TensorParallel {
  // Implicit: a group alone is tensor parallelism without cut sequences. The group outlives every layer.
  TensorParallel(ProcessGroup& tp, bool cut_sequence = false) : group(&tp), sequence(cut_sequence && tp.size() > 1) {}

  int size() const { return group->size(); }
  int rank() const { return group->rank(); }

  // The stream as a cut branch wants it, whole; `rows` is N. Once a branch: its input gradients are added before they
  // are summed over ranks. `name` as in tensor_ops.h.
  Tensor enter(const Tensor& x, int64_t rows, std::string_view name = {}) const {
    return sequence ? gather_from(x, rows, *group, name) : copy_to(x, *group, name);
  }
  // A partial result as the stream wants it, summed. Written over y as reduce_from does.
  Tensor leave(const Tensor& y, const Tensor& bias = {}, std::string_view name = {}) const {
    return sequence ? reduce_scatter_to(y, *group, bias, name) : reduce_from(y, *group, bias, name);
  }
  // Begin and end of the stream, between values that are whole on every rank.
  Tensor begin_stream(const Tensor& x, std::string_view name = {}) const {
    return sequence ? split_to(x, *group, name) : x;
  }
  Tensor end_stream(const Tensor& x, int64_t rows, std::string_view name = {}) const {
    return sequence ? join_from(x, rows, *group, name) : x;
  }
  // Over whom gradients are summed of what is applied to the stream: norms, biases after a sum. Null: nobody.
  ProcessGroup* stream_group() const { return sequence ? group : nullptr; }

  ProcessGroup* group;
  bool sequence;
};

}  // namespace tpo
