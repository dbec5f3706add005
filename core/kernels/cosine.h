#pragma once
// Rows by their length: normalisation and cosine. f32 or bf16, sums in fp32. A row shorter than eps is divided by eps,
// which then is a constant. Memory-bound.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// y[r,c] = x[r,c] inverse[r], inverse[r] = 1 / max(|x_r|, eps)
struct NormalizeFwd {
  static constexpr const char* kName = "normalize_fwd";
  const void* x;   // (rows, cols)
  void* y;         // (rows, cols)
  float* inverse;  // (rows)
  int64_t rows, cols;
  float eps;
  DType dtype;
  Cost cost() const {
    const int64_t n = rows * cols, bytes = width_of(dtype) * n;
    return {3 * n, bytes, bytes + 4 * rows};
  }
};
void run(const NormalizeFwd&, Cpu, Stream&);
void run(const NormalizeFwd&, Cuda, Stream&);

// dx = inverse (dy - y sum_c y dy), without the sum where eps was the length
struct NormalizeBwd {
  static constexpr const char* kName = "normalize_bwd";
  const void* y;         // (rows, cols)
  const void* dy;        // (rows, cols)
  const float* inverse;  // (rows)
  void* dx;              // (rows, cols), may be dy
  int64_t rows, cols;
  float eps;
  DType dtype;
  Cost cost() const {
    const int64_t n = rows * cols, bytes = width_of(dtype) * n;
    return {5 * n, 2 * bytes + 4 * rows, bytes};
  }
};
void run(const NormalizeBwd&, Cpu, Stream&);
void run(const NormalizeBwd&, Cuda, Stream&);

// y[r] = a_r b_r / (max(|a_r|, eps) max(|b_r|, eps)); stats[r] = the two inverse lengths and y, unrounded
struct CosineFwd {
  static constexpr const char* kName = "cosine_fwd";
  const void* a;  // (rows, cols)
  const void* b;  // (rows, cols)
  void* y;        // (rows)
  float* stats;   // (rows, 3)
  int64_t rows, cols;
  float eps;
  DType dtype;
  Cost cost() const {
    const int64_t n = rows * cols, width = width_of(dtype);
    return {6 * n, 2 * width * n, (width + 12) * rows};
  }
};
void run(const CosineFwd&, Cpu, Stream&);
void run(const CosineFwd&, Cuda, Stream&);

// With i and j the inverse lengths: da = dy (b i j - y a i^2), without the second term where eps was the length; db
// alike
struct CosineBwd {
  static constexpr const char* kName = "cosine_bwd";
  const void* a;       // (rows, cols)
  const void* b;       // (rows, cols)
  const float* stats;  // (rows, 3)
  const void* dy;      // (rows)
  void *da, *db;       // (rows, cols), null: not wanted
  int64_t rows, cols;
  float eps;
  DType dtype;
  Cost cost() const {
    const int64_t n = rows * cols, width = width_of(dtype), wanted = (da != nullptr) + (db != nullptr);
    return {3 * wanted * n, 2 * width * n + (12 + width) * rows, wanted * width * n};
  }
};
void run(const CosineBwd&, Cpu, Stream&);
void run(const CosineBwd&, Cuda, Stream&);

}  // namespace tpo
