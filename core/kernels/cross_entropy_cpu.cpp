// Cross-entropy over chunks of rows that have a target. A chunk's logits are overwritten by their gradient and feed the
// products for dx and dw while they are in cache. Losses are summed in the order of rows, in double.
// The fused kernel and the two phases of a vocabulary in parts are the same steps.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/kernels/cross_entropy.h"
#include "core/kernels/gemm.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/simd.h"
#include "core/kernels/storage.h"

namespace tpo {

namespace {

using simd::kLanes;
using simd::Vec;

struct RowStats {
  float max, sum, target;  // of exp(logit - max); the logit of the target, 0 if it is not here
};

// Replaces logits by exp(logit - max) if `gradient`. target: its column, or -1.
RowStats exp_row(float* logits, int64_t v, int64_t target, bool gradient) {
  const float picked = target >= 0 ? logits[target] : 0.0f;
  const int64_t body = v / kLanes * kLanes;
  Vec m(logits[0]);
  for (int64_t j = 0; j < body; j += kLanes) m = max(m, Vec::load(logits + j));
  float top = simd::hmax(m);
  for (int64_t j = body; j < v; ++j) top = std::max(top, logits[j]);
  Vec sums = Vec::zero();
  for (int64_t j = 0; j < body; j += kLanes) {
    const Vec e = simd::exp(Vec::load(logits + j) - Vec(top));
    sums += e;
    if (gradient) e.store(logits + j);
  }
  float sum = simd::hsum(sums);
  for (int64_t j = body; j < v; ++j) {
    const float e = std::exp(logits[j] - top);
    sum += e;
    if (gradient) logits[j] = e;
  }
  return {top, sum, picked};
}

// The row over all parts of the vocabulary, part p at stats[p * distance]. With one part its own bits.
RowStats combine(const RowStats* stats, int parts, int64_t distance) {
  RowStats all{stats[0].max, 0, 0};
  for (int p = 1; p < parts; ++p) all.max = std::max(all.max, stats[p * distance].max);
  for (int p = 0; p < parts; ++p) {
    const RowStats& s = stats[p * distance];
    all.sum += s.sum * std::exp(s.max - all.max);
    all.target += s.target;
  }
  return all;
}

// From exp_row's result to scale * (softmax - onehot).
void gradient_row(float* e, int64_t v, int64_t target, const RowStats& mine, const RowStats& all, float scale) {
  const float f = scale / all.sum * std::exp(mine.max - all.max);
#pragma omp simd
  for (int64_t j = 0; j < v; ++j) e[j] *= f;
  if (target >= 0) e[target] -= scale;
}

// A chunk's rows of one operand: in place when they are consecutive, else gathered into scratch.
struct Rows {
  const int32_t* index;  // (count) rows of the operand, rising
  int64_t count;
  bool consecutive() const { return index[count - 1] - index[0] == count - 1; }

  template <class T>
  const T* gather(const T* from, int64_t cols, T* scratch) const {
    if (consecutive()) return from + index[0] * cols;
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(scratch + i * cols, from + index[i] * cols, static_cast<size_t>(cols) * sizeof(T));
    return scratch;
  }
  // Where a product may write these rows, and the copy back if that was scratch.
  template <class T>
  T* target(T* to, int64_t cols, T* scratch) const {
    return consecutive() ? to + index[0] * cols : scratch;
  }
  template <class T>
  void scatter(const T* from, T* to, int64_t cols) const {
    if (consecutive()) return;
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(to + index[i] * cols, from + i * cols, static_cast<size_t>(cols) * sizeof(T));
  }
};

// Products with one operand pair: (x, w, c) or (xa, b, r).
template <class T>
struct Operand {
  const T *x, *w;
  T* dx;
  float* dw;
  int64_t cols;
  T* gathered;  // (chunk, cols)
  T* dgathered;

  void logits(const Rows& rows, float* out, int64_t v, bool add, Stream& stream) const {
    if (cols == 0) return;
    const T* from = rows.gather(x, cols, gathered);
    run(Gemm{from, w, out, rows.count, v, cols, false, true, 1.0f, add ? 1.0f : 0.0f, DTypeOf<T>::value}, Cpu{},
        stream);
  }
  void gradients(const Rows& rows, const T* dlogits, int64_t v, bool first, Stream& stream) const {
    constexpr DType kStored = DTypeOf<T>::value;
    if (dx != nullptr) {
      T* to = rows.target(dx, cols, dgathered);
      run(Gemm{dlogits, w, to, rows.count, cols, v, false, false, 1.0f, 0.0f, kStored, kStored}, Cpu{}, stream);
      rows.scatter(to, dx, cols);
    }
    if (dw != nullptr) {
      const T* from = rows.consecutive() ? x + rows.index[0] * cols : gathered;
      run(Gemm{dlogits, from, dw, v, cols, rows.count, true, false, 1.0f, first ? 0.0f : 1.0f, kStored}, Cpu{}, stream);
    }
  }
};

template <class T>
void zero(T* p, int64_t n) {
  if (p != nullptr) std::fill(p, p + n, T());
}

// The work of one kernel, laid out in its scratch.
template <class T>
class Pass {
 public:
  explicit Pass(const VocabCrossEntropy& k)
      : k_(k),
        logits_(take(k.chunk * k.v)),
        losses_(take(k.n)),
        dlogits_(std::is_same_v<T, float> ? reinterpret_cast<T*>(logits_) : take_rows((k.v + 1) / 2)),
        main_(operand(k.x, k.w, k.dx, k.dw, k.c)),
        low_(operand(k.xa, k.b, k.dxa, k.db, k.r)) {
    for (int64_t i = 0; i < k.n; ++i)
      if (k.targets[i] >= 0) valid_.push_back(static_cast<int32_t>(i));
  }
  int64_t count() const { return static_cast<int64_t>(valid_.size()); }
  Rows chunk(int64_t index) const {
    const int64_t begin = std::min(index * k_.chunk, count());
    return {valid_.data() + begin, std::min(k_.chunk, count() - begin)};
  }

  void logits(const Rows& rows, Stream& stream) const {
    if (rows.count == 0) return;
    main_.logits(rows, logits_, k_.v, false, stream);
    low_.logits(rows, logits_, k_.v, true, stream);
  }
  RowStats exponentials(const Rows& rows, int64_t i) const {
    return exp_row(logits_ + i * k_.v, k_.v, target(rows, i), gradient_);
  }
  // The loss of row i of chunk `index`, and the gradient of its logits.
  void finish(const Rows& rows, int64_t index, int64_t i, const RowStats& mine, const RowStats& all) const {
    losses_[index * k_.chunk + i] = all.max + std::log(all.sum) - all.target;
    if (!gradient_) return;
    float* row = logits_ + i * k_.v;
    gradient_row(row, k_.v, target(rows, i), mine, all, k_.scale);
    if (!std::is_same_v<T, float>) convert(row, dlogits_ + i * k_.v, k_.v);
  }
  void gradients(const Rows& rows, int64_t index, Stream& stream) const {
    if (rows.count == 0) return;
    main_.gradients(rows, dlogits_, k_.v, index == 0, stream);
    low_.gradients(rows, dlogits_, k_.v, index == 0, stream);
  }
  // What no row with a target writes.
  void zero_the_rest() const {
    if (count() < k_.n) zero(main_.dx, k_.n * k_.c), zero(low_.dx, k_.n * k_.r);
    if (count() == 0) zero(k_.dw, k_.v * k_.c), zero(k_.db, k_.v * k_.r);
  }
  void write_loss() const {
    double total = 0;
    for (int64_t i = 0; i < count(); ++i) total += losses_[i];
    k_.loss[0] = static_cast<float>(k_.scale * total);
  }
  template <class Body>
  void for_rows(const Rows& rows, const Body& body) const {
    parallel_for(rows.count, row_grain(k_.v, kHeavyGrain), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i);
    });
  }

 private:
  float* take(int64_t floats) { return std::exchange(next_, next_ + floats); }
  T* take_rows(int64_t cols) { return reinterpret_cast<T*>(take(k_.chunk * cols)); }
  Operand<T> operand(const void* x, const void* w, void* dx, float* dw, int64_t cols) {
    T* const gathered = take_rows(cols);
    return {static_cast<const T*>(x), static_cast<const T*>(w), static_cast<T*>(dx), dw, cols, gathered,
            take_rows(cols)};
  }
  int64_t target(const Rows& rows, int64_t i) const {
    const int64_t t = k_.targets[rows.index[i]] - k_.first;
    return t >= 0 && t < k_.v ? t : -1;
  }

  const VocabCrossEntropy& k_;
  float* next_ = k_.scratch;
  float *logits_, *losses_;
  T* dlogits_;
  Operand<T> main_, low_;
  const bool gradient_ = k_.dx || k_.dw || k_.dxa || k_.db;
  std::vector<int32_t> valid_;
};

}  // namespace

void run(const VocabCrossEntropy& k, Cpu, Stream& stream) {
  with_storage(k.dtype, [&]<class T>() {
    const Pass<T> pass(k);
    pass.zero_the_rest();
    for (int64_t index = 0; index * k.chunk < pass.count(); ++index) {
      const Rows rows = pass.chunk(index);
      pass.logits(rows, stream);
      pass.for_rows(rows, [&](int64_t i) {
        const RowStats mine = pass.exponentials(rows, i);
        pass.finish(rows, index, i, mine, mine);
      });
      pass.gradients(rows, index, stream);
    }
    pass.write_loss();
  });
}

void run(const VocabScores& k, Cpu, Stream& stream) {
  with_storage(k.k.dtype, [&]<class T>() {
    const Pass<T> pass(k.k);
    const Rows rows = pass.chunk(k.index);
    auto* stats = reinterpret_cast<RowStats*>(k.stats);
    pass.logits(rows, stream);
    pass.for_rows(rows, [&](int64_t i) { stats[i] = pass.exponentials(rows, i); });
    std::fill(stats + rows.count, stats + k.k.chunk, RowStats{});
  });
}

void run(const VocabGradients& k, Cpu, Stream& stream) {
  with_storage(k.k.dtype, [&]<class T>() {
    const Pass<T> pass(k.k);
    const Rows rows = pass.chunk(k.index);
    const auto* stats = reinterpret_cast<const RowStats*>(k.stats);
    if (k.index == 0) pass.zero_the_rest();
    pass.for_rows(rows, [&](int64_t i) {
      pass.finish(rows, k.index, i, stats[k.part * k.k.chunk + i], combine(stats + i, k.parts, k.k.chunk));
    });
    pass.gradients(rows, k.index, stream);
    if ((k.index + 1) * k.k.chunk >= k.k.n) pass.write_loss();
  });
}

void run(const ScaleByScalar& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    with_storage(k.y_dtype, [&]<class To>() {
      for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) {
        const T* x = static_cast<const T*>(k.x);
        To* y = static_cast<To*>(k.y);
        const float s = k.s[0];
        if (k.accumulate) {
#pragma omp simd
          for (int64_t i = begin; i < end; ++i) y[i] = narrow<To>(widen(y[i]) + s * widen(x[i]));
        } else {
#pragma omp simd
          for (int64_t i = begin; i < end; ++i) y[i] = narrow<To>(s * widen(x[i]));
        }
      });
    });
  });
}

}  // namespace tpo
