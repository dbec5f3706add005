#pragma once
// A weight that is whole on every rank of a group while each rank's use of it yields a share of the gradient only: it
// meets a rank's rows (norms under sequence parallelism), feeds a branch that is cut (an adapter's first matrix), or is
// a key-value head that several ranks share. The shares of a microbatch are summed over the group when the last use is
// done, which is a program point, also when weight gradients are deferred (Tape::Mode::kInputOnly). The sum has the
// same bits on all ranks of the group.
#include <memory>

#include "core/param.h"

namespace tpo {

class ProcessGroup;

class SummedParam {
 public:
  // group null or of one rank: param as it is. Both outlive this object, and this object every tape that used it.
  SummedParam(Param& param, ProcessGroup* group);
  SummedParam(SummedParam&&) noexcept;
  ~SummedParam();
  // Param::use with the gradient summed; the kernels of backward write a buffer of this object, not the bucket.
  Tensor use() const;
  Param& param() const { return *param_; }

 private:
  class Sink;
  Param* param_;
  std::unique_ptr<Sink> sink_;  // null: nothing to sum
};

}  // namespace tpo
