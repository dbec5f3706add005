#pragma once
// Elements of rows by index, and the largest elements of rows. Indices are trusted: the ops check them. A row is the
// work of one thread, so the order of sums does not depend on threads.
#include <bit>
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/inline.h"

namespace tpo {

class Stream;

// y[r,j] = x[r, idx[r,j]]
struct GatherElements {
  static constexpr const char* kName = "gather_elements";
  const void* x;       // (rows, cols)
  const int32_t* idx;  // (rows, picks)
  void* y;             // (rows, picks)
  int64_t rows, cols, picks;
  DType dtype;
  Cost cost() const { return {0, rows * picks * (width_of(dtype) + 4), rows * picks * width_of(dtype)}; }
};
void run(const GatherElements&, Cpu, Stream&);
void run(const GatherElements&, Cuda, Stream&);

// y[j] = x[idx[j]] of 64-bit integers
struct GatherIds {
  static constexpr const char* kName = "gather_ids";
  const int64_t* x;
  const int32_t* idx;  // (picks)
  int64_t* y;          // (picks)
  int64_t picks;
  Cost cost() const { return {0, picks * 12, picks * 8}; }
};
void run(const GatherIds&, Cpu, Stream&);
void run(const GatherIds&, Cuda, Stream&);

// out[r,c] (+)= sum over j with idx[r,j] = c of src[r,j], in the order of j, in fp32 with one rounding at the end
struct ScatterAddElements {
  static constexpr const char* kName = "scatter_add_elements";
  const void* src;     // (rows, picks)
  const int32_t* idx;  // (rows, picks)
  void* out;           // (rows, cols)
  int64_t rows, cols, picks;
  bool accumulate;
  DType dtype, out_dtype;  // of src, of out
  Cost cost() const {
    const int64_t out_bytes = rows * cols * width_of(out_dtype);
    return {rows * picks, rows * picks * (width_of(dtype) + 4) + (accumulate ? out_bytes : 0), out_bytes};
  }
};
void run(const ScatterAddElements&, Cpu, Stream&);
void run(const ScatterAddElements&, Cuda, Stream&);

// A number that is the smaller the larger x is: the order of top_k. Equal for 0 and -0; NaN comes first.
TPO_INLINE uint32_t descending_rank(float x) {
  const auto bits = std::bit_cast<uint32_t>(x + 0.0f);  // -0 + 0 is 0
  const uint32_t ascending = bits ^ ((bits >> 31) != 0u ? 0xffffffffu : 0x80000000u);
  return x != x ? 0u : ~ascending;
}

// values[r,j], indices[r,j]: the j-th largest element of row r and its column; of equal ones the lower column is first.
// Requires: 1 <= picks <= cols.
struct TopKRows {
  static constexpr const char* kName = "top_k_rows";
  const void* x;     // (rows, cols)
  void* values;      // (rows, picks)
  int32_t* indices;  // (rows, picks)
  int64_t rows, cols, picks;
  DType dtype;
  Cost cost() const { return {rows * cols, rows * cols * width_of(dtype), rows * picks * (width_of(dtype) + 4)}; }
};
void run(const TopKRows&, Cpu, Stream&);
void run(const TopKRows&, Cuda, Stream&);

// y[r,c] = c == idx[r]
struct OneHot {
  static constexpr const char* kName = "one_hot";
  const int32_t* idx;  // (rows)
  void* y;             // (rows, cols)
  int64_t rows, cols;
  DType dtype;
  Cost cost() const { return {0, 4 * rows, rows * cols * width_of(dtype)}; }
};
void run(const OneHot&, Cpu, Stream&);
void run(const OneHot&, Cuda, Stream&);

}  // namespace tpo
