// Losses over elements: one pass over blocks of kLoopBlock, each cut where a row and with it the weight ends.
#include <algorithm>
#include <bit>

#include "core/error.h"
#include "core/kernels/element_loss.h"
#include "core/kernels/loss_math.h"
#include "core/kernels/storage.h"
#include "core/kernels/sum_chunks.h"
#include "core/stream.h"

namespace tpo {

namespace {

// Calls fn with the functor of the kernel's kind.
template <class Fn>
auto with_loss(ElementLossKind kind, float a, float b, const Fn& fn) {
  switch (kind) {
    case ElementLossKind::kL1:
      return fn(loss::L1{});
    case ElementLossKind::kMse:
      return fn(loss::Mse{});
    case ElementLossKind::kSmoothL1:
      return fn(loss::SmoothL1{a});
    case ElementLossKind::kBceLogits:
      return fn(loss::BceLogits{a});
    case ElementLossKind::kBce:
      return fn(loss::Bce{});
    case ElementLossKind::kFocal:
      return b == 2.0f ? fn(loss::Focal<true>{a, b}) : fn(loss::Focal<false>{a, b});
    case ElementLossKind::kHinge:
      return fn(loss::Hinge{a});
  }
  TPO_ASSERT(false);
}

// v, or 0 if w is 0: by a mask of its bits, since a choice would become a branch around all that follows.
TPO_INLINE float kept(float w, float v) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(v) & (w == 0.0f ? 0u : ~0u));
}

// Sum over [begin, end) of weight[i] f, or w f with w != 0, and the gradient if wanted. Operands of weight 0 are read
// as 0, where every loss is finite.
template <class T, bool kTarget, bool kGradient, bool kWeights, class F>
double stretch(const ElementLoss& k, const F& f, int64_t begin, int64_t end, float w) {
  const T *x = static_cast<const T*>(k.x), *target = static_cast<const T*>(k.target);
  T* dx = static_cast<T*>(k.dx);
  const float scale = k.scale, *weight = k.weight;  // locals: the vectoriser gathers through a captured pointer
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = begin; i < end; ++i) {
    float wi = w, xi = widen(x[i]), t = kTarget ? widen(target[i]) : 0.0f;
    if constexpr (kWeights) wi = weight[i], xi = kept(wi, xi), t = kept(wi, t);
    sum += wi * f.value(xi, t);
    if constexpr (kGradient) dx[i] = narrow<T>(scale * wi * f.slope(xi, t));
  }
  return static_cast<double>(sum);
}

// The sum of one block.
template <class T, bool kTarget, bool kGradient, class F>
double block(const ElementLoss& k, const F& f, int64_t begin, int64_t end) {
  if (k.weight == nullptr) return stretch<T, kTarget, kGradient, false>(k, f, begin, end, 1.0f);
  if (k.group == 1) return stretch<T, kTarget, kGradient, true>(k, f, begin, end, 1.0f);
  double sum = 0;
  for (int64_t i = begin; i < end;) {
    const int64_t row = i / k.group, stop = std::min(end, (row + 1) * k.group);
    if (const float w = k.weight[row]; w != 0) {
      sum += stretch<T, kTarget, kGradient, false>(k, f, i, stop, w);
    } else if (kGradient) {
      std::fill(static_cast<T*>(k.dx) + i, static_cast<T*>(k.dx) + stop, narrow<T>(0.0f));
    }
    i = stop;
  }
  return sum;
}

template <class T, bool kTarget, bool kGradient, class F>
double all_blocks(const ElementLoss& k, const F& f) {
  const auto part = [&](int64_t begin, int64_t end) {
    double sum = 0;
    for (int64_t b = begin; b < end; b += kLoopBlock)
      sum += block<T, kTarget, kGradient>(k, f, b, std::min(end, b + kLoopBlock));
    return sum;
  };
  return sum_chunks<double>(k.n, part, kLoopBlock, kHeavyGrain);
}

}  // namespace

int64_t flops_of(ElementLossKind kind) {
  return with_loss(kind, 0, 2, [](auto f) { return decltype(f)::kFlops; });
}

void run(const ElementLoss& k, Cpu, Stream&) {
  with_loss(k.kind, k.a, k.b, [&]<class F>(const F& f) {
    with_storage(k.dtype, [&]<class T>() {
      constexpr bool kTarget = !std::is_same_v<F, loss::Hinge>;
      const double sum = k.dx ? all_blocks<T, kTarget, true>(k, f) : all_blocks<T, kTarget, false>(k, f);
      *k.loss = static_cast<float>(static_cast<double>(k.scale) * sum);
    });
  });
}

}  // namespace tpo
