#include "core/kernels/cross_entropy.h"

#include <algorithm>

#include "core/launch.h"
#include "core/ops/loss.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

void check_targets(const Tensor& targets, int64_t vocabulary) {
  if (targets.device() != Device::kCpu) return;
  const int32_t* p = targets.data<int32_t>();
  for (int64_t n = 0; n < targets.numel(); ++n)
    check<DataError>(p[n] == kIgnoreTarget || (p[n] >= 0 && p[n] < vocabulary), "[vocab_cross_entropy] target of row ",
                     n, " is ", p[n], ", must be in 0..", vocabulary - 1, " or ", kIgnoreTarget);
}

void check_arguments(const Tensor& x, const Tensor& w, const Tensor& targets, const Tensor& xa, const Tensor& b) {
  constexpr const char* kOp = "vocab_cross_entropy";
  check_float(kOp, x, "x");
  check_like(kOp, w, "w", x);
  check_i32_vector(kOp, targets, "targets");
  check_shape(x.rank() == 2 && w.rank() == 2 && x.dim(1) == w.dim(1) && targets.dim(0) == x.dim(0), "[", kOp, "] x ",
              x.shape(), " must be (N, C), w ", w.shape(), " (V, C), targets ", targets.shape(), " (N)");
  check_shape(xa.defined() == b.defined(), "[", kOp, "] xa and b come together");
  if (!xa.defined()) return;
  check_like(kOp, xa, "xa", x);
  check_like(kOp, b, "b", x);
  check_shape(xa.rank() == 2 && b.rank() == 2 && xa.dim(0) == x.dim(0) && b.dim(0) == w.dim(0) && xa.dim(1) == b.dim(1),
              "[", kOp, "] xa ", xa.shape(), " must be (N, r) and b ", b.shape(), " (V, r) for x ", x.shape(),
              " and w ", w.shape());
}

// Launches over the chunks of a vocabulary in parts; their number is the same for all parts.
void launch_part(const VocabCrossEntropy& k, const VocabPart& part) {
  const Tensor mine = Tensor::empty({k.chunk, 3}), all = Tensor::empty({part.parts * k.chunk, 3});
  for (int64_t index = 0; index == 0 || index * k.chunk < k.n; ++index) {
    launch(VocabScores{k, index, f32(mine)});
    part.gather(mine, all);
    launch(VocabGradients{k, index, f32(all), part.parts, part.index});
  }
}

void check_part(const VocabPart& p, int64_t rows) {
  check_shape(p.first >= 0 && p.first + rows <= p.vocabulary && rows <= p.widest && p.index >= 0 && p.index < p.parts,
              "[vocab_cross_entropy] w has ", rows, " rows from ", p.first, " on, which is no part ", p.index, " of ",
              p.parts, " of a vocabulary of ", p.vocabulary, " in parts of at most ", p.widest);
}

Tensor fused(const Tensor& x, const Tensor& w, const Tensor& targets, float scale, const Tensor& xa, const Tensor& b,
             const VocabPart* part) {
  check_arguments(x, w, targets, xa, b);
  if (part != nullptr) check_part(*part, w.dim(0));
  check_targets(targets, part != nullptr ? part->vocabulary : w.dim(0));
  VocabCrossEntropy k{};
  k.x = raw(x), k.w = raw(w), k.targets = i32(targets), k.xa = raw(xa), k.b = raw(b);
  k.n = x.dim(0), k.c = x.dim(1), k.v = w.dim(0), k.r = xa.defined() ? xa.dim(1) : 0;
  k.first = part != nullptr ? part->first : 0;
  k.chunk = VocabCrossEntropy::rows_per_chunk(k.n, part != nullptr ? part->widest : k.v);
  if (part != nullptr) k.chunk = std::max<int64_t>(1, k.chunk);
  k.scale = scale, k.dtype = x.dtype();
  Tensor loss = Tensor::empty({1});
  const auto gradient_of = [](const Tensor& t, DType dtype, MemoryKind kind) {
    const MemoryScope memory(kind);
    return any_wants_grad({t}) ? Tensor::empty(t.shape(), dtype) : Tensor();
  };
  const auto input = MemoryKind::kActivations, weight = MemoryKind::kGradients;  // held until backward
  const Tensor grads[4] = {gradient_of(x, k.dtype, input), gradient_of(w, DType::kF32, weight),
                           gradient_of(xa, k.dtype, input), gradient_of(b, DType::kF32, weight)};
  {
    const MemoryScope memory(MemoryKind::kWorkspace);
    const Tensor scratch = Tensor::empty({k.scratch_floats()});
    k.loss = f32(loss), k.scratch = f32(scratch);
    k.dx = raw(grads[0]), k.dw = f32(grads[1]), k.dxa = raw(grads[2]), k.db = f32(grads[3]);
    part != nullptr ? launch_part(k, *part) : launch(k);
  }
  record("vocab_cross_entropy", {x, w, xa, b}, {&loss},
         [dx_ = grads[0], dw = grads[1], dxa = grads[2], db = grads[3]](std::span<const Tensor> dy, GradSink& dx) {
           const auto scaled = [s = f32(dy[0])](const Tensor& g, const Tensor& to, bool accumulate) {
             launch(ScaleByScalar{raw(g), s, raw(to), g.numel(), accumulate, g.dtype(), to.dtype()});
           };
           const Tensor activations[2] = {dx_, dxa}, weights[2] = {dw, db};
           for (int i = 0; i < 2; ++i) {
             if (const Tensor& g = activations[i]; g.defined()) {  // in place: nobody else holds it
               scaled(g, g, false);
               dx.add(2 * i, g);
             }
             if (const Tensor& g = weights[i]; g.defined()) {
               const GradDest d = dx.destination(2 * i + 1);
               scaled(g, d.grad, d.accumulate);
             }
           }
         });
  return loss;
}

}  // namespace

Tensor vocab_cross_entropy(const Tensor& x, const Tensor& w, const Tensor& targets, float scale, const Tensor& xa,
                           const Tensor& b) {
  return fused(x, w, targets, scale, xa, b, nullptr);
}

Tensor vocab_cross_entropy_part(const Tensor& x, const Tensor& w, const Tensor& targets, float scale,
                                const VocabPart& part, const Tensor& xa, const Tensor& b) {
  return fused(x, w, targets, scale, xa, b, &part);
}

}  // namespace tpo
