#pragma once
// What the cases of conformance.cpp are written with: tensors with known values, and checks that throw.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/error.h"
#include "parallel/comm/process_group.h"

namespace tpo::conformance {

template <class... Parts>
void expect(bool ok, const Parts&... parts) {
  if (!ok) throw std::runtime_error(cat(parts...));
}

template <class E, class F>
void expect_throws(F&& f, const std::string& text) {
  try {
    f();
  } catch (const E& e) {
    expect(std::string(e.what()).find(text) != std::string::npos, "'", e.what(), "' does not say '", text, "'");
    return;
  }
  throw std::runtime_error("nothing was thrown; expected: " + text);
}

// 0, 1, a prime; for f32 also exactly one piece of 1 MiB and a prime above two; for i64 a prime above one.
template <class T>
std::vector<int64_t> sizes() {
  std::vector<int64_t> s = {0, 1, 7919};
  if (DTypeOf<T>::value == DType::kF32) s.insert(s.end(), {262144, 600011});
  if (DTypeOf<T>::value == DType::kI64) s.push_back(150001);
  return s;
}

// Small integers below `modulus`, so that every dtype sums them exactly; u8 wraps, and so does its reference. bf16 has
// every integer up to 256: with n ranks, (modulus - 1) * n must not be more.
inline thread_local int64_t modulus = 61;  // each rank thread's own
inline int64_t number(int rank, int64_t i) { return (i * 7 + rank * 13) % modulus; }

template <void (*kRun)(ProcessGroup&)>
void sized(ProcessGroup& g) {
  if (g.size() > 256) throw std::runtime_error("bf16 cannot tell sums of so many ranks");
  modulus = std::min<int64_t>(61, 256 / g.size() + 1);
  kRun(g);
}

template <class T>
T typed(int64_t n) {
  if constexpr (std::is_same_v<T, BF16>)
    return BF16(static_cast<float>(n));
  else
    return static_cast<T>(n);
}

template <class T>
T value(int rank, int64_t i) {
  return typed<T>(number(rank, i));
}

template <class T>
void fill(const Tensor& t, int rank) {
  T* p = t.data<T>();
  for (int64_t i = 0; i < t.numel(); ++i) p[i] = i < modulus ? value<T>(rank, i) : p[i - modulus];
}

template <class T>
Tensor filled(int rank, int64_t n) {
  Tensor t = Tensor::empty({n}, DTypeOf<T>::value);
  fill<T>(t, rank);
  return t;
}

template <class T>
T reduced(int size, int64_t i, ReduceOp op, int first = 0) {
  int64_t acc = number(first, i);
  for (int r = 1; r < size; ++r) {
    const int64_t x = number(first + r, i);
    acc = op == ReduceOp::kSum ? acc + x : std::max(acc, x);
  }
  return typed<T>(acc);
}

// Sanitizers look at every access themselves, and slow each down: of long tensors they compare every 17th element.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr int64_t kEvery = 17;
#else
inline constexpr int64_t kEvery = 1;
#endif

template <class T, class F>
void expect_values(const Tensor& t, const std::string& what, F&& reference) {
  const T* p = t.data<T>();
  const int64_t n = t.numel(), step = n > 10000 ? kEvery : 1;
  for (int64_t i = 0; i < n; i += step) {
    const T want = reference(i);
    if (std::memcmp(&p[i], &want, sizeof(T)) == 0) continue;
    expect(false, what, " ", t.dtype(), " x ", n, ": element ", i, " is ",
           static_cast<double>(static_cast<float>(p[i])), ", expected ", static_cast<double>(static_cast<float>(want)));
  }
}

}  // namespace tpo::conformance
