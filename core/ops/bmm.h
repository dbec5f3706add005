#pragma once
#include "core/tape.h"

namespace tpo {

// y[i] = op(a[i]) op(b[i]): one product a batch entry, where op transposes the last two dims if told to.
//   a (B, M, K), or (B, K, M) with trans_a    b (B, K, N), or (B, N, K) with trans_b -> (B, M, N)
//   f32 or bf16, both alike, summed in fp32. Saves a and b; a gradient nobody wants is not computed.
//   Throws ShapeError naming both shapes if they do not fit, before any effect.
struct BmmTrans {
  bool a = false, b = false;
};
Tensor bmm(const Tensor& a, const Tensor& b, BmmTrans trans = {});

}  // namespace tpo
