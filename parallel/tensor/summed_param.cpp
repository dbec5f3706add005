#include "parallel/tensor/summed_param.h"

#include "core/kernels/basic.h"
#include "core/kernels/cast.h"
#include "core/launch.h"
#include "parallel/comm/process_group.h"

namespace tpo {

class SummedParam::Sink final : public LeafSink {
 public:
  Sink(Param& param, ProcessGroup& group) : param_(param), group_(group) {}

  GradDest grad_destination() override {
    const bool accumulate = share_.defined();
    if (!accumulate) share_ = Tensor::empty(param_.value.shape());
    return {share_, accumulate};
  }
  void on_ready() override {
    if (share_.defined()) {  // on all ranks or on none: they run the same program
      group_.all_reduce(share_, ReduceOp::kSum, param_.name).wait(Stream::current());
      const GradDest to = param_.grad_destination();
      if (to.accumulate) {
        launch(Cast{share_.raw(), to.grad.raw(), share_.numel(), DType::kF32, to.grad.dtype(), true});
      } else {
        launch(CopyBytes{to.grad.raw(), share_.raw(), share_.nbytes()});
      }
      share_ = Tensor();
    }
    param_.on_ready();
  }

 private:
  Param& param_;
  ProcessGroup& group_;
  Tensor share_;  // of the microbatch whose backward runs
};

SummedParam::SummedParam(Param& param, ProcessGroup* group)
    : param_(&param), sink_(group != nullptr && group->size() > 1 ? std::make_unique<Sink>(param, *group) : nullptr) {}
SummedParam::SummedParam(SummedParam&&) noexcept = default;
SummedParam::~SummedParam() = default;

Tensor SummedParam::use() const {
  Tape* tape = Tape::current();
  if (sink_ == nullptr || tape == nullptr || !param_->trainable) return param_->use();
  const Tensor value = [this] {
    const NoGradScope no_grad;
    return param_->use();
  }();
  return tape->leaf(value, *sink_);
}

}  // namespace tpo
