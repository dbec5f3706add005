#include "tests/op_case.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <memory>

#include "core/ops/pointwise.h"

namespace tpo::optest {

namespace {

// Host copy of a tensor's values as T, read as double.
template <class T>
std::vector<double> widen(const Tensor& t) {
  const auto v = t.to_vector<T>();
  return {v.begin(), v.end()};
}

double max_abs(const std::vector<double>& v) {
  double m = 0;
  for (double x : v) m = std::max(m, std::fabs(x));
  return m;
}

// A gradient for the output that depends on the number of elements and the storage only.
std::vector<float> projection(int64_t n, DType storage) {
  std::vector<float> v(static_cast<size_t>(n));
  constexpr RngKey kKey = RngKey(7).with("dy");
  constexpr size_t kFresh = 1 << 16;
  for (size_t i = 0; i < v.size(); ++i) v[i] = i < kFresh ? 2 * uniform01(philox(kKey, i)[0]) - 1 : v[i - kFresh];
  if (storage == DType::kBF16)
    for (float& x : v) x = static_cast<float>(BF16(x));
  return v;
}

// `values` in a storage; on meta only the shape.
Tensor stored(const std::vector<float>& values, const Shape& shape, DType storage) {
  if (storage == DType::kF32) return Tensor::from(values, shape);
  std::vector<BF16> v(values.size());
  for (size_t i = 0; i < v.size(); ++i) v[i] = BF16(values[i]);
  return Tensor::from(v, shape);
}

Tensor output_gradient(const Tensor& y) { return stored(projection(y.numel(), y.dtype()), y.shape(), y.dtype()); }

struct Leaf final : LeafSink {
  GradDest dest;
  int ready = 0;
  GradDest grad_destination() override { return dest; }
  void on_ready() override { ++ready; }
};

bool chosen(const std::vector<int>& list, int i) { return std::find(list.begin(), list.end(), i) != list.end(); }

// One forward and backward in which the inputs of `wanted` are leaves whose buffers start at `fill`.
std::vector<std::vector<float>> leaf_gradients(const OpCase& c, const std::vector<int>& wanted, bool accumulate,
                                               float fill) {
  Tape tape;
  std::vector<Leaf> leaves(c.in.size());
  std::vector<Tensor> in = c.in;
  Tensor y;
  {
    const TapeScope scope(tape);
    for (size_t i = 0; i < in.size(); ++i) {
      if (!chosen(wanted, static_cast<int>(i))) continue;
      const std::vector<float> start(static_cast<size_t>(in[i].numel()), fill);
      leaves[i].dest = {Tensor::from(start, in[i].shape()), accumulate};
      in[i] = tape.leaf(in[i], leaves[i]);
    }
    y = c.run(in);
  }
  const Tensor dy = output_gradient(y);
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  std::vector<std::vector<float>> grads;
  for (int i : wanted) {
    TPO_ASSERT(leaves[static_cast<size_t>(i)].ready == 1);
    grads.push_back(leaves[static_cast<size_t>(i)].dest.grad.to_vector<float>());
  }
  return grads;
}

// Gradients of the inputs in c.grads, and the gradient of the output they belong to.
struct Analytic {
  std::vector<std::vector<double>> grads;
  std::vector<float> dy;
};

Analytic analytic(const OpCase& c) {
  Tape tape;
  std::vector<Tensor> in = c.in;
  Tensor y;
  {
    const TapeScope scope(tape);
    for (int i : c.grads) in[static_cast<size_t>(i)] = tape.watch(in[static_cast<size_t>(i)]);
    y = c.run(in);
  }
  const Tensor dy = output_gradient(y);
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  Analytic result{{}, projection(y.numel(), y.dtype())};
  for (int i : c.grads) result.grads.push_back(to_ref(tape.grad(in[static_cast<size_t>(i)])).v);
  return result;
}

// sum of dy * reference at x + h u, for the gradient dy of above.
double objective(const OpCase& c, const std::vector<float>& dy, std::vector<Ref>& in, int input,
                 const std::vector<double>& u, double h) {
  Ref& x = in[static_cast<size_t>(input)];
  const std::vector<double> saved = x.v;
  for (size_t i = 0; i < u.size(); ++i) x.v[i] += h * u[i];
  const Ref y = c.ref(in);
  x.v = saved;
  double sum = 0;
  for (size_t i = 0; i < y.v.size(); ++i) sum += dy[i] * y.v[i];
  return sum;
}

// Directions to probe: single elements (all of a small input) and dense random signs.
std::vector<std::vector<double>> directions(int64_t n, Size size, int input) {
  std::vector<std::vector<double>> list;
  const RngKey key = RngKey(11).with(static_cast<uint64_t>(input));
  const int64_t elements = std::min<int64_t>(n, size == Size::kSmall ? 24 : 2), dense = size == Size::kSmall ? 3 : 1;
  for (int64_t k = 0; k < elements; ++k) {
    const auto at = n <= elements ? static_cast<uint64_t>(k)
                                  : uniform_below(key, static_cast<uint64_t>(k), static_cast<uint64_t>(n));
    list.emplace_back(static_cast<size_t>(n), 0.0)[at] = 1;
  }
  for (int64_t k = 0; k < dense; ++k) {
    auto& u = list.emplace_back(static_cast<size_t>(n));
    for (size_t i = 0; i < u.size(); ++i) u[i] = philox(key.with(static_cast<uint64_t>(k)), i)[0] & 1 ? 1.0 : -1.0;
  }
  return list;
}

struct Footprint {
  Shape shape;
  AllocatorStats stats;
  StreamCounters counters;
  std::map<std::string, int64_t, std::less<>> launches;
};

Footprint footprint(const CaseEntry& e, DType storage, std::unique_ptr<Stream> stream) {
  const StreamScope scope(*stream);
  const OpCase c = storage == DType::kBF16 ? in_bf16(e.build()) : e.build();
  stream->allocator()->reset_peak();
  Tape tape;
  std::vector<Tensor> in = c.in;
  Tensor y;
  {
    const TapeScope tape_scope(tape);
    for (int i : c.grads) in[static_cast<size_t>(i)] = tape.watch(in[static_cast<size_t>(i)]);
    y = c.run(in);
  }
  if (!c.grads.empty()) {
    const Tensor dy = output_gradient(y);
    tape.backward(std::span(&y, 1), std::span(&dy, 1));
  }
  return {y.shape(), stream->allocator()->stats(), stream->counters(), stream->launches_by_kernel()};
}

}  // namespace

namespace {

// Values past the first 64 Ki repeat: large inputs are for sizes, and cost time to make.
template <class Draw>
Tensor fill(const Shape& shape, const Draw& draw) {
  if (Stream::current().device() == Device::kMeta) return Tensor::empty(shape);
  constexpr size_t kFresh = 1 << 16;
  std::vector<float> v(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = i < kFresh ? draw() : v[i - kFresh];
  return Tensor::from(v, shape);
}

}  // namespace

Tensor Rand::uniform(const Shape& shape, float lo, float hi) {
  return fill(shape, [&] { return lo + (hi - lo) * uniform01(philox(key_, counter_++)[0]); });
}

Tensor Rand::normal(const Shape& shape, float stddev) {
  return fill(shape, [&] {
    const auto w = philox(key_, counter_++);
    return stddev * normal2(w[0], w[1])[0];
  });
}

Tensor Rand::integers(int64_t n, int64_t lo, int64_t hi) {
  std::vector<int32_t> v(static_cast<size_t>(n));
  for (int32_t& x : v) x = static_cast<int32_t>(lo + static_cast<int64_t>(below(static_cast<uint64_t>(hi - lo))));
  return of(v);
}

Tensor Rand::distinct(int64_t n, int64_t limit) {
  std::vector<int32_t> v(static_cast<size_t>(limit));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int32_t>(i);
  for (size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[below(i)]);
  v.resize(static_cast<size_t>(n));
  return of(v);
}

Tensor Rand::row_ids(int64_t n) {
  std::vector<int64_t> v(static_cast<size_t>(n));
  // Below 2^53, so that the reference's double holds them; above 2^32, so that both words of the counter matter.
  for (int64_t& e : v) e = static_cast<int64_t>(below(uint64_t{1} << 50));
  return Tensor::from(v, {n});
}

Tensor Rand::of(const std::vector<int32_t>& values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())});
}

Tensor mapped(const Tensor& x, const std::function<float(float)>& fn) {
  if (x.device() == Device::kMeta) return Tensor::empty(x.shape());
  std::vector<float> v = x.to_vector<float>();
  for (float& e : v) e = fn(e);
  return Tensor::from(v, x.shape());
}

Tensor off_zero(const Tensor& x) {
  return mapped(x, [](float e) { return e + (e < 0 ? -0.01f : 0.01f); });
}

Ref to_ref(const Tensor& t) {
  Ref r;
  if (!t.defined()) return r;
  r.shape = t.shape();
  switch (t.dtype()) {
    case DType::kF32:
      r.v = widen<float>(t);
      break;
    case DType::kI32:
      r.v = widen<int32_t>(t);
      break;
    case DType::kI64:
      r.v = widen<int64_t>(t);
      break;
    case DType::kU8:
      r.v = widen<uint8_t>(t);
      break;
    case DType::kBF16:
      for (BF16 b : t.to_vector<BF16>()) r.v.push_back(static_cast<float>(b));
      break;
  }
  return r;
}

std::vector<Ref> to_refs(Inputs in) {
  std::vector<Ref> refs;
  for (const Tensor& t : in) refs.push_back(to_ref(t));
  return refs;
}

OpCase in_bf16(OpCase c) {
  constexpr double kRounding = 1.0 / 256;  // half the distance of neighbours, 8 significant bits
  for (size_t i = 0; i < c.in.size(); ++i) {
    const Tensor& t = c.in[i];
    if (!t.defined() || t.dtype() != DType::kF32 || chosen(c.f32_in, static_cast<int>(i))) continue;
    c.in[i] = t.device() == Device::kMeta ? Tensor::empty(t.shape(), DType::kBF16)
                                          : stored(t.to_vector<float>(), t.shape(), DType::kBF16);
  }
  c.tol += 1.01 * kRounding * c.bf16_stores;
  // Roundings along a dense direction add like a random walk: 0.6 of the bound each, 4 deviations for the worst probe.
  c.grad_tol += 2.4 * kRounding * c.bf16_grad_stores;
  return c;
}

std::string check_reference(const OpCase& c) {
  const Ref y = to_ref(c.run(c.in)), want = c.ref(to_refs(c.in));
  if (!(y.shape == want.shape)) return cat("shape ", y.shape, ", reference ", want.shape);
  const double scale = std::max(max_abs(want.v), 1e-9);
  for (size_t i = 0; i < y.v.size(); ++i) {
    const double error = std::fabs(y.v[i] - want.v[i]) / scale;
    if (!(error <= c.tol))
      return cat("element ", i, ": ", y.v[i], ", reference ", want.v[i], ", error ", error, " > ", c.tol);
  }
  return "";
}

std::string check_gradients(const OpCase& c, Size size) {
  constexpr double kStep = 1e-5;  // error of the quotient: h^2 and 1e-16 / h, both near 1e-10
  if (c.grads.empty()) return "";
  const auto [grads, dy] = analytic(c);
  std::vector<Ref> in = to_refs(c.in);
  for (size_t k = 0; k < c.grads.size(); ++k) {
    const std::vector<double>& g = grads[k];
    double norm = 0;
    for (double x : g) norm += x * x;
    for (const auto& u : directions(static_cast<int64_t>(g.size()), size, c.grads[k])) {
      double along = 0, length = 0;
      for (size_t i = 0; i < g.size(); ++i) along += g[i] * u[i], length += u[i] * u[i];
      const double plus = objective(c, dy, in, c.grads[k], u, kStep);
      const double minus = objective(c, dy, in, c.grads[k], u, -kStep);
      const double quotient = (plus - minus) / (2 * kStep);
      // A dense direction sums g with random signs, of size norm; one element is held to the largest element.
      const double scale = std::max({length > 1.5 ? std::sqrt(norm) : max_abs(g), std::fabs(quotient), 1e-6});
      if (!(std::fabs(along - quotient) <= c.grad_tol * scale))
        return cat("input ", c.grads[k], ": derivative ", along, ", finite difference ", quotient, " (scale ", scale,
                   ", ", length, " elements moved)");
    }
  }
  return "";
}

namespace {

// Room between gradients of one op that are stored or summed differently: fp32 sums, or one rounding of bf16 for each
// store between them.
double storage_room(const OpCase& c) {
  const bool narrow =
      std::any_of(c.in.begin(), c.in.end(), [](const Tensor& t) { return t.defined() && t.dtype() == DType::kBF16; });
  return narrow ? 1.01 / 256 * (c.bf16_grad_stores + 1) : 1e-5;
}

// "" or where a gradient is not `times` the one of `want`.
template <class T>
std::string differs(int input, const std::vector<T>& grad, const std::vector<double>& want, double times, double room) {
  const double scale = std::max(1e-6, times * max_abs(want));
  for (size_t i = 0; i < want.size(); ++i)
    if (!(std::fabs(static_cast<double>(grad[i]) - times * want[i]) <= room * scale))
      return cat("input ", input, ": element ", i, " is ", grad[i], ", should be ", times * want[i]);
  return "";
}

}  // namespace

std::string check_repeated_use(const OpCase& c) {
  if (c.grads.empty()) return "";
  Tape tape;
  std::vector<Tensor> in = c.in;
  Tensor sum;
  {
    const TapeScope scope(tape);
    for (int i : c.grads) in[static_cast<size_t>(i)] = tape.watch(in[static_cast<size_t>(i)]);
    const Tensor first = c.run(in);
    sum = add(first, c.run(in));
  }
  const Tensor dy = output_gradient(sum);
  tape.backward(std::span(&sum, 1), std::span(&dy, 1));
  const auto once = analytic(c).grads;
  for (size_t k = 0; k < c.grads.size(); ++k) {
    const std::vector<double> g = to_ref(tape.grad(in[static_cast<size_t>(c.grads[k])])).v;
    if (std::string wrong = differs(c.grads[k], g, once[k], 2, storage_room(c)); !wrong.empty()) return wrong;
  }
  return "";
}

std::string check_destinations(const OpCase& c) {
  if (c.grads.empty()) return "";
  const auto watched = analytic(c).grads;
  const auto plain = leaf_gradients(c, c.grads, false, std::numeric_limits<float>::quiet_NaN());
  const auto added = leaf_gradients(c, c.grads, true, 1.0f);
  for (size_t k = 0; k < c.grads.size(); ++k) {
    if (std::string wrong = differs(c.grads[k], plain[k], watched[k], 1, storage_room(c)); !wrong.empty()) return wrong;
    double scale = 1;
    for (float x : plain[k]) scale = std::max(scale, std::fabs(static_cast<double>(x)));
    for (size_t i = 0; i < plain[k].size(); ++i) {
      if (std::isnan(plain[k][i])) return cat("input ", c.grads[k], ": element ", i, " of the destination not written");
      // Adding to 1 rounds once more, and a product that accumulates may sum in another order.
      if (!(std::fabs(added[k][i] - 1.0 - plain[k][i]) <= 1e-5 * scale))
        return cat("input ", c.grads[k], ": element ", i, " accumulated to ", added[k][i], " from 1 + ", plain[k][i]);
    }
    const auto alone = leaf_gradients(c, {c.grads[k]}, false, std::numeric_limits<float>::quiet_NaN());
    if (!plain[k].empty() && std::memcmp(alone[0].data(), plain[k].data(), plain[k].size() * sizeof(float)) != 0)
      return cat("input ", c.grads[k], ": the gradient changes when no other input wants one");
  }
  return "";
}

std::string check_meta(const CaseEntry& e, DType storage) {
  const Footprint cpu = footprint(e, storage, Stream::make_cpu()), meta = footprint(e, storage, Stream::make_meta());
  if (!(cpu.shape == meta.shape)) return cat("shape ", cpu.shape, " on cpu, ", meta.shape, " on meta");
  if (cpu.launches != meta.launches) return "other launches on meta";
  const StreamCounters& count = cpu.counters;
  if (count.flops < 0 || count.read_bytes < 0 || count.write_bytes < 0) return "a negative cost";
  const auto differ = [](const char* what, int64_t a, int64_t b) {
    return a == b ? "" : cat(what, " ", a, " on cpu, ", b, " on meta; ");
  };
  return differ("flops", cpu.counters.flops, meta.counters.flops) +
         differ("bytes read", cpu.counters.read_bytes, meta.counters.read_bytes) +
         differ("bytes written", cpu.counters.write_bytes, meta.counters.write_bytes) +
         differ("allocations", cpu.stats.allocations, meta.stats.allocations) +
         differ("live bytes", cpu.stats.live_bytes, meta.stats.live_bytes) +
         differ("peak bytes", cpu.stats.peak_bytes, meta.stats.peak_bytes);
}

}  // namespace tpo::optest
