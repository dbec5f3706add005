#pragma once
// Encodings of positions, generated where they are needed.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// Sine encodings of a grid: y[i,j,:] is the code of row i followed by the code of column j; of the column alone if
// height is 0. See ops/position.h for the code.
struct SineEncoding {
  static constexpr const char* kName = "sine_encoding";
  void* y;  // (height, width, 2 features), or (width, features) if height is 0
  int64_t height, width, features;
  double temperature, first;
  bool unit_scale;
  DType dtype;
  int64_t numel() const { return (height > 0 ? 2 * height : 1) * width * features; }
  // Every row's and column's code is formed once.
  Cost cost() const { return {12 * (height + width) * features, 0, width_of(dtype) * numel()}; }
};
void run(const SineEncoding&, Cpu, Stream&);
void run(const SineEncoding&, Cuda, Stream&);

// y[n,:] = [sin(a), cos(a)], a[f] = 2 pi sum_d (2 points[n,d] - 1) frequencies[d,f]
struct FourierEncoding {
  static constexpr const char* kName = "fourier_encoding";
  const float* points;       // (n, dims)
  const float* frequencies;  // (dims, features)
  float* y;                  // (n, 2 features)
  int64_t n, dims, features;
  Cost cost() const { return {(2 * dims + 22) * n * features, 4 * dims * (n + features), 8 * n * features}; }
};
void run(const FourierEncoding&, Cpu, Stream&);
void run(const FourierEncoding&, Cuda, Stream&);

}  // namespace tpo
