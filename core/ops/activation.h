#pragma once
// An activation behind a product z inside one op: in place where nothing needs z afterwards.
#include "core/kernels/pointwise.h"
#include "core/ops/matmul.h"
#include "core/ops/op_util.h"

namespace tpo {

// Requires: not kNone.
inline UnaryKind unary_of(Activation act) {
  switch (act) {
    case Activation::kRelu:
      return UnaryKind::kRelu;
    case Activation::kGelu:
      return UnaryKind::kGelu;
    case Activation::kGeluTanh:
      return UnaryKind::kGeluTanh;
    default:
      return UnaryKind::kSilu;
  }
}

class FusedActivation {
 public:
  // y = act(z). `grad`: a backward may follow. Requires: z has one handle, or a recomputed block keeps it, whose values
  // are then left alone, unless twice gives the same as once (kRelu).
  FusedActivation(Activation act, const Tensor& z, bool grad) : act_(act) {
    const bool kept = !z.unique();
    y_ = z;
    if (act == Activation::kNone) return;
    const UnaryKind kind = unary_of(act);
    const bool apart = (grad || kept) && !saves_output(kind);
    if (apart) y_ = empty_like(z);
    launch(UnaryFwd{raw(z), raw(y_), z.numel(), kind, z.dtype()});
    if (grad) saved_ = apart ? z : y_.detach();
  }

  const Tensor& y() const { return y_; }

  // What a backward closure keeps: dy -> dz, in the memory of dy if nobody shares it.
  std::function<Tensor(const Tensor&)> backward() const {
    if (act_ == Activation::kNone) return [](const Tensor& dy) { return dy; };
    return [kind = unary_of(act_), saved = saved_](const Tensor& dy) {
      Tensor dz = reuse(dy);
      launch(UnaryBwd{raw(saved), raw(dy), raw(dz), dz.numel(), kind, dz.dtype()});
      return dz;
    };
  }

 private:
  Activation act_;
  Tensor y_, saved_;
};

}  // namespace tpo
