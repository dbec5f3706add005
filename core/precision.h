#pragma once
// Precision: which dtype each kind of number of a training run has. The one place where that is decided: there is no
// autocast, kernels compute in fp32 whatever the storage is.
#include "core/dtype.h"
#include "core/error.h"

namespace tpo {

struct Precision {
  DType weights = DType::kF32;    // parameters as ops read them, and activations
  DType gradients = DType::kF32;  // gradient buckets, and so what is reduced between ranks
  DType master = DType::kF32;     // trained weights and Adam moments in the optimizer
};

// Throws ConfigError naming the field and what would be legal, unless this version computes with it: f32 everywhere.
inline void check_precision(const Precision& p) {
  struct Field {
    const char* name;
    DType dtype;
  };
  for (const Field& f : {Field{"weights", p.weights}, {"gradients", p.gradients}, {"master", p.master}}) {
    check<ConfigError>(f.dtype == DType::kF32, "precision of ", f.name, " is ", f.dtype, "; legal: f32");
  }
}

}  // namespace tpo
