#pragma once
// Precision: which dtype each kind of number has. The one place where that is decided: there is no autocast, kernels
// compute in fp32 whatever the storage is.
//   parameters, activations and their gradients    `weights`
//   parameters in a scope of ParamScope::in_f32    f32: what turns states into coordinates, or coordinates into states,
//                                                  since 8 bits of a fraction of a picture are several pixels
//   pictures, boxes, targets that come in; boxes, logits and losses that go out; statistics inside ops    f32
//   gradients of parameters: as written, summed over microbatches and ranks, clipped    `gradients`
//   what the optimizer updates, and its moments    `master`; parameters are rounded from it after each update
// An op refuses operands of several storages; where a value passes from one to the other a `cast` stands, and a Linear
// casts its input to the storage of its weight.
#include "core/dtype.h"
#include "core/error.h"

namespace tpo {

struct Precision {
  DType weights = DType::kF32;    // f32 or bf16
  DType gradients = DType::kF32;  // f32: gradient buckets, and so what is reduced between ranks
  DType master = DType::kF32;  // f32: trained weights and Adam moments in the optimizer; no master if `weights` is it
};

// Throws ConfigError naming the field and what would be legal.
inline void check_precision(const Precision& p) {
  check<ConfigError>(is_float(p.weights), "precision of weights is ", p.weights, "; legal: f32, bf16");
  check<ConfigError>(p.gradients == DType::kF32, "precision of gradients is ", p.gradients, "; legal: f32");
  check<ConfigError>(p.master == DType::kF32, "precision of master is ", p.master, "; legal: f32");
}

}  // namespace tpo
