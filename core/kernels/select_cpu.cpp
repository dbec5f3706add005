#include "core/kernels/pointwise_loop.h"
#include "core/kernels/select.h"
#include "core/kernels/storage.h"
#include "core/stream.h"

namespace tpo {

namespace {

// a and b give the operand at i.
template <class T, class A, class B>
void select(const Select& k, const A& a, const B& b) {
  for_elements(k.n, kLightGrain, [&](int64_t begin, int64_t end) {
    const uint8_t* mask = k.mask;
    T* y = static_cast<T*>(k.y);
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const T on = a(i), off = b(i);
      y[i] = mask[i] != 0 ? on : off;
    }
  });
}

}  // namespace

void run(const Select& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    const T *pa = static_cast<const T*>(k.a), *pb = static_cast<const T*>(k.b);
    const T constant = narrow<T>(k.value);
    const auto a = [pa](int64_t i) { return pa[i]; };
    const auto b = [pb](int64_t i) { return pb[i]; };
    const auto value = [constant](int64_t) { return constant; };
    if (pa == nullptr) return pb == nullptr ? select<T>(k, value, value) : select<T>(k, value, b);
    pb == nullptr ? select<T>(k, a, value) : select<T>(k, a, b);
  });
}

}  // namespace tpo
