#pragma once
// One struct describes an op for four uses: comparison with a reference of plain loops in double, gradients against
// finite differences of that reference, meta shapes, bytes and launches, and the benchmark.
//
// To add a case: write add_<family>_cases in tests/cases/<family>_cases.cpp, name it in tests/cases/all_cases.cpp and
// tests/cases/CMakeLists.txt. Sizes include 1, a prime and a large one; a tolerance has its reason beside it.
#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/rng.h"
#include "core/tape.h"

namespace tpo::optest {

// A value in double: what a reference reads and returns. Integers are exact.
struct Ref {
  Shape shape;
  std::vector<double> v;

  Ref() = default;
  explicit Ref(const Shape& s) : shape(s), v(static_cast<size_t>(s.numel()), 0.0) {}
  double& operator[](int64_t i) { return v[static_cast<size_t>(i)]; }
  double operator[](int64_t i) const { return v[static_cast<size_t>(i)]; }
  // Element of a matrix (rows, last dim).
  double& at(int64_t r, int64_t c) { return (*this)[r * shape[-1] + c]; }
  double at(int64_t r, int64_t c) const { return (*this)[r * shape[-1] + c]; }
  int64_t cols() const { return shape[-1]; }
  int64_t rows() const { return cols() == 0 ? 0 : shape.numel() / cols(); }
};

// Random inputs on the current stream's device, the same for the same name of a case.
class Rand {
 public:
  explicit Rand(const std::string& name) : key_(RngKey(2024).with(name)) {}
  Tensor uniform(const Shape& shape, float lo = -1, float hi = 1);
  Tensor normal(const Shape& shape, float stddev = 1);
  Tensor integers(int64_t n, int64_t lo, int64_t hi);  // (n) i32 in [lo, hi)
  Tensor distinct(int64_t n, int64_t limit);           // (n) i32, distinct, in [0, limit)
  Tensor of(const std::vector<int32_t>& values);       // (n) i32
  Tensor row_ids(int64_t n);                           // (n) i64 for dropout
  uint64_t below(uint64_t n) { return uniform_below(key_, counter_++, n); }

 private:
  RngKey key_;
  uint64_t counter_ = 0;
};

// fn of every value of an f32 tensor, in new memory; on meta that memory alone.
Tensor mapped(const Tensor& x, const std::function<float(float)>& fn);
// Moved away from 0 by 0.01, where a function has its kink.
Tensor off_zero(const Tensor& x);

using Inputs = std::span<const Tensor>;
using RefInputs = std::span<const Ref>;

struct OpCase {
  std::vector<Tensor> in;
  std::function<Tensor(Inputs)> run;
  std::function<Ref(RefInputs)> ref;
  std::vector<int> grads = {};  // inputs whose gradient is checked; empty: the op is not differentiable
  double tol = 0;               // of max |y - ref| / max |ref|
  // Of a directional derivative, relative to the gradient's norm. The reference is double and its difference quotient
  // good to 1e-8, so this is room for fp32 sums only; a wrong term is far above it.
  double grad_tol = 1e-4;
  // The same case with every f32 input rounded to bf16. The reference reads the rounded values, so what remains is
  // rounding at stores: `bf16_stores` of the result and of intermediates on the way to it, each 2^-8 of its size;
  // `bf16_grad_stores` likewise of a gradient, of what backward reads of the forward, and of gradients in between.
  int bf16_stores = 1;
  int bf16_grad_stores = 2;
  std::vector<int> f32_in = {};  // inputs that stay f32: tables, keys of a sort, what is f32 in every storage
};

// The case in bf16: inputs rounded, tolerances widened as above.
OpCase in_bf16(OpCase c);

enum class Size { kSmall, kLarge, kBench };  // kLarge: few gradient probes; kBench: meta and benchmark only

struct CaseEntry {
  std::string name;  // "op/sizes"
  Size size;
  std::function<OpCase(Rand&)> make;
  bool bf16 = true;  // false: the op has no floating-point operand, or f32 ones only
  OpCase build() const {
    Rand r(name);
    return make(r);
  }
};
inline void PrintTo(const CaseEntry& e, std::ostream* out) { *out << e.name; }  // for GoogleTest

class CaseList {
 public:
  void add(const std::string& name, std::function<OpCase(Rand&)> make, Size size = Size::kSmall, bool bf16 = true) {
    entries.push_back({name, size, std::move(make), bf16});
  }
  std::vector<CaseEntry> entries;
};

// Every case of the project, in a fixed order.
const CaseList& all_cases();

// k fp32 roundings of 2^-24 that add like a random walk, with a factor 4 for the worst of many elements.
inline double sum_tolerance(int64_t k) { return 4 * 6e-8 * std::sqrt(static_cast<double>(k < 1 ? 1 : k)); }

Ref to_ref(const Tensor& t);
std::vector<Ref> to_refs(Inputs in);

// The checks; each returns an empty string or what is wrong.
std::string check_reference(const OpCase& c);
std::string check_gradients(const OpCase& c, Size size);
// Gradients written into a leaf's destination: over NaN when told to overwrite, with the values that a watched input
// gets, added when told to accumulate, and the same bits when only one input wants a gradient.
std::string check_destinations(const OpCase& c);
// An op run twice on the same inputs: twice the gradient. Its dy is shared then, and the second contribution adds to
// the first in the storage of the value.
std::string check_repeated_use(const OpCase& c);
// Same output shape, launches, counted work and allocator statistics on meta and CPU, forward and backward, with inputs
// in `storage`.
std::string check_meta(const CaseEntry& e, DType storage = DType::kF32);

}  // namespace tpo::optest
