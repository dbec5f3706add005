// Elementwise kernels. Memory-bound: figures beside the copy bandwidth stand in bench/results.
#include "core/error.h"
#include "core/kernels/pointwise.h"
#include "core/kernels/pointwise_loop.h"
#include "core/kernels/pointwise_math.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

// Calls fn with the functor of `kind`.
template <class Fn>
auto with_unary(UnaryKind kind, const Fn& fn) {
  switch (kind) {
    case UnaryKind::kRelu:
      return fn(math::Relu{});
    case UnaryKind::kGelu:
      return fn(math::Gelu{});
    case UnaryKind::kGeluTanh:
      return fn(math::GeluTanh{});
    case UnaryKind::kSilu:
      return fn(math::Silu{});
    case UnaryKind::kSigmoid:
      return fn(math::Sigmoid{});
  }
  TPO_ASSERT(false);
}

template <class Op>
void binary(const Binary& k, const Op& op) {
  with_storage(k.dtype, [&]<class T>() {
    for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) {
      const T *a = static_cast<const T*>(k.a), *b = static_cast<const T*>(k.b);
      T* y = static_cast<T*>(k.y);
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) y[i] = narrow<T>(op(widen(a[i]), widen(b[i])));
    });
  });
}

template <class F>
void binary_bwd(const BinaryBwd& k, F) {
  with_storage(k.dtype, [&]<class T>() {
    for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) {
      const T *a = static_cast<const T*>(k.a), *b = static_cast<const T*>(k.b);
      const T* dy = static_cast<const T*>(k.dy);
      T *da = static_cast<T*>(k.da), *db = static_cast<T*>(k.db);
      // In blocks of the first-level cache, so that both passes read memory once.
      for (int64_t at = begin; at < end; at += kLoopBlock) {
        const int64_t stop = std::min(end, at + kLoopBlock);
        if (da != nullptr) {
#pragma omp simd
          for (int64_t i = at; i < stop; ++i) da[i] = narrow<T>(F::da(widen(a[i]), widen(b[i])) * widen(dy[i]));
        }
        if (db != nullptr) {
#pragma omp simd
          for (int64_t i = at; i < stop; ++i) db[i] = narrow<T>(F::db(widen(a[i]), widen(b[i])) * widen(dy[i]));
        }
      }
    });
  });
}

}  // namespace

bool saves_output(UnaryKind kind) {
  return with_unary(kind, [](auto f) { return decltype(f)::kSavesOutput; });
}

int64_t flops_of(UnaryKind kind) {
  return with_unary(kind, [](auto f) { return decltype(f)::kFlops; });
}

void run(const UnaryFwd& k, Cpu, Stream&) {
  with_unary(k.kind, [&](auto f) {
    with_storage(k.dtype, [&]<class T>() {
      for_elements(k.n, kHeavyGrain, [&](int64_t begin, int64_t end) {
        const T* x = static_cast<const T*>(k.x);
        T* y = static_cast<T*>(k.y);
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) y[i] = narrow<T>(f.f(widen(x[i])));
      });
    });
  });
}

void run(const UnaryBwd& k, Cpu, Stream&) {
  with_unary(k.kind, [&](auto f) {
    with_storage(k.dtype, [&]<class T>() {
      for_elements(k.n, kHeavyGrain, [&](int64_t begin, int64_t end) {
        const T *saved = static_cast<const T*>(k.saved), *dy = static_cast<const T*>(k.dy);
        T* dx = static_cast<T*>(k.dx);
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) dx[i] = narrow<T>(f.d(widen(saved[i])) * widen(dy[i]));
      });
    });
  });
}

void run(const Binary& k, Cpu, Stream&) {
  switch (k.kind) {
    case BinaryKind::kAdd:
      return binary(k, [](float a, float b) { return a + b; });
    case BinaryKind::kSub:
      return binary(k, [](float a, float b) { return a - b; });
    case BinaryKind::kMul:
      return binary(k, [](float a, float b) { return a * b; });
    case BinaryKind::kDiv:
      return binary(k, [](float a, float b) { return math::Div::f(a, b); });
    case BinaryKind::kMin:
      return binary(k, [](float a, float b) { return math::Min::f(a, b); });
    case BinaryKind::kMax:
      return binary(k, [](float a, float b) { return math::Max::f(a, b); });
  }
}

void run(const BinaryBwd& k, Cpu, Stream&) {
  switch (k.kind) {
    case BinaryKind::kDiv:
      return binary_bwd(k, math::Div{});
    case BinaryKind::kMin:
      return binary_bwd(k, math::Min{});
    case BinaryKind::kMax:
      return binary_bwd(k, math::Max{});
    default:
      TPO_ASSERT(false);
  }
}

void run(const Clamp& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) {
      const T *x = static_cast<const T*>(k.x), *dy = static_cast<const T*>(k.dy);
      T* y = static_cast<T*>(k.y);
      const float lo = k.lo, hi = k.hi;
      if (dy == nullptr) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) y[i] = narrow<T>(math::clamp(widen(x[i]), lo, hi));
        return;
      }
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float v = widen(x[i]), d = widen(dy[i]);
        y[i] = narrow<T>(((v >= lo) & (v <= hi)) ? d : 0.0f);
      }
    });
  });
}

void run(const Scale& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) {
      const T* x = static_cast<const T*>(k.x);
      T* y = static_cast<T*>(k.y);
      const float alpha = k.alpha;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) y[i] = narrow<T>(alpha * widen(x[i]));
    });
  });
}

void run(const AddBias& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    parallel_for(k.rows, row_grain(k.cols, kLightGrain), [&](int64_t begin, int64_t end) {
      const T* bias = static_cast<const T*>(k.bias);
      for (int64_t r = begin; r < end; ++r) {
        const T* x = static_cast<const T*>(k.x) + r * k.cols;
        T* y = static_cast<T*>(k.y) + r * k.cols;
#pragma omp simd
        for (int64_t c = 0; c < k.cols; ++c) y[c] = narrow<T>(widen(x[c]) + widen(bias[c]));
      }
    });
  });
}

void run(const SwigluFwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    for_elements(k.n, kHeavyGrain, [&](int64_t begin, int64_t end) {
      const T *gate = static_cast<const T*>(k.gate), *up = static_cast<const T*>(k.up);
      T* y = static_cast<T*>(k.y);
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) y[i] = narrow<T>(math::Silu::f(widen(gate[i])) * widen(up[i]));
    });
  });
}

void run(const SwigluBwd& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    for_elements(k.n, kHeavyGrain, [&](int64_t begin, int64_t end) {
      const T *gate = static_cast<const T*>(k.gate), *up = static_cast<const T*>(k.up);
      const T* dy = static_cast<const T*>(k.dy);
      T *dgate = static_cast<T*>(k.dgate), *dup = static_cast<T*>(k.dup);
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float g = widen(gate[i]), d = widen(dy[i]), u = widen(up[i]), s = math::sigmoid(g), y = g * s;
        dgate[i] = narrow<T>(d * u * (s + y * (1.0f - s)));
        dup[i] = narrow<T>(d * y);
      }
    });
  });
}

}  // namespace tpo
