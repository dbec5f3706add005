#include "bench/gemm_replay.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "core/error.h"
#include "core/parallel_for.h"
#include "core/rng.h"

namespace tpo {

namespace {

double seconds_of(const std::function<void()>& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Uniform in +-0.25: products over some hundred terms keep about that size, so that chains neither overflow nor sink
// into denormals.
void fill_random(const Tensor& t, uint64_t seed) {
  float* p = t.data<float>();
  const RngKey key(seed);
  parallel_for(t.numel() / 4, 1 << 12, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto words = philox(key, static_cast<uint64_t>(i));
      for (int j = 0; j < 4; ++j) p[4 * i + j] = 0.5f * uniform01(words[static_cast<size_t>(j)]) - 0.25f;
    }
  });
}

using Range = std::pair<uintptr_t, uintptr_t>;  // first and past the last byte

Range range_of(const void* p, int64_t numel) {
  const auto at = reinterpret_cast<uintptr_t>(p);
  return {at, at + static_cast<uintptr_t>(numel) * sizeof(float)};
}

// Overlapping ranges joined, in the order of addresses.
std::vector<Range> joined(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<Range> out;
  for (const Range& r : ranges) {
    if (!out.empty() && r.first < out.back().second) {
      out.back().second = std::max(out.back().second, r.second);
    } else {
      out.push_back(r);
    }
  }
  return out;
}

}  // namespace

std::vector<Gemm> record_gemms(const std::function<void()>& f) {
  std::vector<Gemm> gemms;
  observe_gemms([&gemms](const Gemm& g) { gemms.push_back(g); });
  try {
    f();
  } catch (...) {
    observe_gemms({});
    throw;
  }
  observe_gemms({});
  return gemms;
}

GemmReplay::GemmReplay(std::vector<Gemm> recorded) : gemms_(std::move(recorded)) {
  std::vector<Range> ranges;
  for (const Gemm& g : gemms_) {
    check<DeviceError>(g.dtype == DType::kF32 && g.out_dtype == DType::kF32, "[gemm_replay] fp32 products only");
    for (const Range& r : {range_of(g.a, g.m * g.k), range_of(g.b, g.k * g.n), range_of(g.c, g.m * g.n)})
      ranges.push_back(r);
  }
  std::map<uintptr_t, std::pair<uintptr_t, float*>> twins;  // last byte -> first byte and twin
  for (const Range& r : joined(std::move(ranges))) {
    const uintptr_t first = r.first / 64 * 64;  // a twin starts at the same place of a cache line
    const auto floats = static_cast<int64_t>((r.second - first) / sizeof(float));
    buffers_.push_back(Tensor::empty({(floats + 3) / 4 * 4}));
    twins[r.second] = {first, buffers_.back().data<float>()};
  }
  const auto twin_of = [&twins](const void* p) {
    const auto at = reinterpret_cast<uintptr_t>(p);
    const auto& [first, twin] = twins.upper_bound(at)->second;
    return twin + (at - first) / sizeof(float);
  };
  for (Gemm& g : gemms_) g.a = twin_of(g.a), g.b = twin_of(g.b), g.c = twin_of(g.c);
  fill();
}

void GemmReplay::fill() {
  for (size_t i = 0; i < buffers_.size(); ++i) fill_random(buffers_[i], i);
}

double GemmReplay::run() const {
  Stream& stream = Stream::current();
  return seconds_of([&] {
    for (const Gemm& g : gemms_) tpo::run(g, Cpu{}, stream);
  });
}

double GemmReplay::flops() const {
  double sum = 0;
  for (const Gemm& g : gemms_) sum += 2.0 * static_cast<double>(g.m) * static_cast<double>(g.n * g.k);
  return sum;
}

AttentionReplay::AttentionReplay(const AttentionShape& shape, int64_t layers)
    : s_(shape),
      layers_(layers),
      length_(shape.q_rows / shape.segments),
      block_(s_.causal ? std::min<int64_t>(64, length_) : length_) {
  for (int64_t i = 0; i < layers * kOperands; ++i) {
    const int64_t o = i % kOperands, heads = o == kK || o == kV || o == kDK || o == kDV ? s_.kv_heads : s_.q_heads;
    operands_.push_back(Tensor::empty({s_.segments * heads * length_ * s_.dim}));
    fill_random(operands_.back(), static_cast<uint64_t>(i));
  }
}

float* AttentionReplay::at(int64_t layer, Operand o, int64_t segment, int64_t head) const {
  const bool key_side = o == kK || o == kV || o == kDK || o == kDV;
  const int64_t heads = key_side ? s_.kv_heads : s_.q_heads, h = key_side ? head / (s_.q_heads / s_.kv_heads) : head;
  return operands_[static_cast<size_t>(layer * kOperands + o)].data<float>() + (segment * heads + h) * length_ * s_.dim;
}

// f(first query, queries, keys)
template <class F>
void AttentionReplay::for_blocks(F f) const {
  for (int64_t q = 0; q < length_; q += block_) {
    const int64_t rows = std::min(block_, length_ - q);
    f(q, rows, s_.causal ? q + rows : length_);
  }
}

void AttentionReplay::head_forward(int64_t l, int64_t segment, int64_t h, float* scores) const {
  Stream& stream = Stream::current();
  const float *q = at(l, kQ, segment, h), *k = at(l, kK, segment, h), *v = at(l, kV, segment, h);
  float* out = at(l, kOut, segment, h);
  for_blocks([&](int64_t first, int64_t rows, int64_t keys) {
    tpo::run(Gemm{q + first * s_.dim, k, scores, rows, keys, s_.dim, false, true}, Cpu{}, stream);
    tpo::run(Gemm{scores, v, out + first * s_.dim, rows, s_.dim, keys, false, false}, Cpu{}, stream);
  });
}

void AttentionReplay::head_backward(int64_t l, int64_t segment, int64_t h, float* scores, float* dscores) const {
  Stream& stream = Stream::current();
  const float *q = at(l, kQ, segment, h), *k = at(l, kK, segment, h), *v = at(l, kV, segment, h);
  const float* dout = at(l, kDOut, segment, h);
  float *dq = at(l, kDQ, segment, h), *dk = at(l, kDK, segment, h), *dv = at(l, kDV, segment, h);
  for_blocks([&](int64_t first, int64_t rows, int64_t keys) {
    const int64_t at_row = first * s_.dim;
    // Halves, so that sums over runs converge.
    tpo::run(Gemm{q + at_row, k, scores, rows, keys, s_.dim, false, true}, Cpu{}, stream);
    tpo::run(Gemm{dout + at_row, v, dscores, rows, keys, s_.dim, false, true}, Cpu{}, stream);
    tpo::run(Gemm{scores, dout + at_row, dv, keys, s_.dim, rows, true, false, 0.5f, 0.5f}, Cpu{}, stream);
    tpo::run(Gemm{dscores, k, dq + at_row, rows, s_.dim, keys, false, false}, Cpu{}, stream);
    tpo::run(Gemm{dscores, q + at_row, dk, keys, s_.dim, rows, true, false, 0.5f, 0.5f}, Cpu{}, stream);
  });
}

// f(segment, head, scores, dscores), the heads of one key head on one thread.
template <class F>
void AttentionReplay::for_heads(F f) const {
  const int64_t group = s_.q_heads / s_.kv_heads;
  parallel_for(s_.segments * s_.kv_heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(static_cast<size_t>(2 * block_ * length_));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t segment = i / s_.kv_heads, kv = i % s_.kv_heads;
      for (int64_t h = kv * group; h < (kv + 1) * group; ++h)
        f(segment, h, scores.data(), scores.data() + block_ * length_);
    }
  });
}

double AttentionReplay::run() const {
  return seconds_of([&] {
    for (int64_t l = 0; l < layers_; ++l)
      for_heads([&](int64_t s, int64_t h, float* scores, float*) { head_forward(l, s, h, scores); });
    for (int64_t l = layers_; l-- > 0;)
      for_heads([&](int64_t s, int64_t h, float* scores, float* ds) { head_backward(l, s, h, scores, ds); });
  });
}

}  // namespace tpo
