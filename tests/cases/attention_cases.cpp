#include <numeric>

#include "core/ops/attention.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_attention_cases(CaseList&);

namespace {

constexpr float kTheta = 1e4f;

struct Dims {
  const char* name;
  std::vector<int32_t> q, k;  // segment lengths; an empty k: as q
  int64_t q_heads, kv_heads, dim;
  bool causal;
  Size size = Size::kSmall;
  bool turns = false;  // rotary embedding inside

  const std::vector<int32_t>& keys() const { return k.empty() ? q : k; }
  AttentionSpec spec() const { return {q_heads, kv_heads, dim, causal, 0}; }
};

std::vector<int32_t> cumulative(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> cu = {0};
  for (int32_t n : lengths) cu.push_back(cu.back() + n);
  return cu;
}

int64_t total(const std::vector<int32_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

// One query row of one head against keys [0, n) of columns at k0, v0 of a matrix.
void attend(const double* q, const Ref& k, const Ref& v, int64_t row0, int64_t k0, int64_t v0, int64_t n, int64_t dim,
            double* out) {
  std::vector<double> p(static_cast<size_t>(n));
  double sum = 0;
  for (int64_t j = 0; j < n; ++j) {
    double s = 0;
    for (int64_t d = 0; d < dim; ++d) s += q[d] * k.at(row0 + j, k0 + d);
    sum += p[static_cast<size_t>(j)] = std::exp(s / std::sqrt(static_cast<double>(dim)));
  }
  for (int64_t j = 0; j < n; ++j)
    for (int64_t d = 0; d < dim; ++d) out[d] += p[static_cast<size_t>(j)] / sum * v.at(row0 + j, v0 + d);
}

// Heads of `dim` columns from column c0 on, turned as rotary embedding does.
Ref turned(Ref x, const Ref& positions, int64_t c0, int64_t heads, int64_t dim) {
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t i = 0; i < dim / 2; ++i) {
        const double angle = positions[r] * std::pow(kTheta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        const int64_t c = c0 + h * dim + i;
        const double a = x.at(r, c), b = x.at(r, c + dim / 2);
        x.at(r, c) = a * std::cos(angle) - b * std::sin(angle);
        x.at(r, c + dim / 2) = b * std::cos(angle) + a * std::sin(angle);
      }
  return x;
}

// Columns of q, k and v heads begin at q0, k0, v0 of their matrices.
Ref reference(const Ref& q, const Ref& k, const Ref& v, const Dims& d, int64_t k0, int64_t v0) {
  Ref y({q.rows(), d.q_heads * d.dim});
  const auto cu_q = cumulative(d.q), cu_k = cumulative(d.keys());
  for (size_t s = 0; s < d.q.size(); ++s)
    for (int64_t i = 0; i < d.q[s]; ++i)
      for (int64_t h = 0; h < d.q_heads; ++h) {
        const int64_t lk = d.keys()[s], n = d.causal ? i + 1 + lk - d.q[s] : lk, kv = h / (d.q_heads / d.kv_heads);
        attend(&q.v[static_cast<size_t>((cu_q[s] + i) * q.cols() + h * d.dim)], k, v, cu_k[s], k0 + kv * d.dim,
               v0 + kv * d.dim, n, d.dim, &y.at(cu_q[s] + i, h * d.dim));
      }
  return y;
}

// Scores of dim terms, an exponential of relative error 2e-7, a weighted mean of as many values as there are keys;
// where rows are turned, sines good to 1e-7 and two products more.
double tolerance(const Dims& d) { return sum_tolerance(d.dim) + 1e-6 + (d.turns ? 4e-7 : 0); }

OpCase separate(Rand& r, const Dims& d) {
  const int64_t nq = total(d.q), nk = total(d.keys());
  OpCase c{.in = {r.normal({nq, d.q_heads * d.dim}), r.normal({nk, d.kv_heads * d.dim}),
                  r.normal({nk, d.kv_heads * d.dim}), r.of(cumulative(d.q)), r.of(cumulative(d.keys()))},
           .run = [=](Inputs v) { return attention(v[0], v[1], v[2], v[3], v[4], d.spec()); },
           .ref = [=](RefInputs v) { return reference(v[0], v[1], v[2], d, 0, 0); },
           .grads = {0, 1, 2},
           .tol = tolerance(d)};
  if (!d.turns) return c;
  c.in.push_back(r.integers(nq, 0, 300));
  c.in.push_back(r.integers(nk, 0, 300));
  c.run = [=](Inputs v) { return attention(v[0], v[1], v[2], v[3], v[4], d.spec(), {v[5], v[6], kTheta}); };
  c.ref = [=](RefInputs v) {
    return reference(turned(v[0], v[5], 0, d.q_heads, d.dim), turned(v[1], v[6], 0, d.kv_heads, d.dim), v[2], d, 0, 0);
  };
  return c;
}

OpCase packed(Rand& r, const Dims& d) {
  const int64_t k0 = d.q_heads * d.dim, v0 = k0 + d.kv_heads * d.dim;
  OpCase c{.in = {r.normal({total(d.q), v0 + d.kv_heads * d.dim}), r.of(cumulative(d.q))},
           .run = [=](Inputs v) { return attention_packed(v[0], v[1], d.spec()); },
           .ref = [=](RefInputs v) { return reference(v[0], v[0], v[0], d, k0, v0); },
           .grads = {0},
           .tol = tolerance(d)};
  if (!d.turns) return c;
  c.in.push_back(r.integers(total(d.q), 0, 300));
  c.run = [=](Inputs v) { return attention_packed(v[0], v[1], d.spec(), {v[2], v[2], kTheta}); };
  c.ref = [=](RefInputs v) {
    const Ref x = turned(v[0], v[2], 0, d.q_heads + d.kv_heads, d.dim);
    return reference(x, x, x, d, k0, v0);
  };
  return c;
}

// A cache with rows beyond the used length. Its keys are as they are, also where queries are turned.
OpCase cached(Rand& r, const Dims& d) {
  const int64_t len = d.keys()[0];
  return OpCase{.in = {r.normal({d.q[0], d.q_heads * d.dim}), r.normal({len + 3, d.kv_heads * d.dim}),
                       r.normal({len + 3, d.kv_heads * d.dim}), r.integers(d.q[0], 0, 300)},
                .run =
                    [=](Inputs v) {
                      Tensor out = empty_like(v[0]);
                      attention_cached(v[0], v[1], v[2], len, d.spec(), out, {d.turns ? v[3] : Tensor(), {}, kTheta});
                      return out;
                    },
                .ref =
                    [=](RefInputs v) {
                      const Ref q = d.turns ? turned(v[0], v[3], 0, d.q_heads, d.dim) : v[0];
                      return reference(q, v[1], v[2], d, 0, 0);
                    },
                .grads = {},
                .tol = tolerance(d)};
}

}  // namespace

void add_attention_cases(CaseList& list) {
  const Dims both[] = {
      {"one", {1}, {}, 1, 1, 1, true},
      {"prime_causal", {7, 0, 13}, {}, 2, 1, 5, true},
      {"prime_full", {7, 0, 13}, {}, 3, 3, 11, false},
      {"empty", {}, {}, 2, 1, 4, true},
      {"tiles_causal", {97, 1, 50}, {}, 4, 2, 16, true, Size::kLarge},
      {"tiles_full", {49, 101}, {}, 2, 2, 40, false, Size::kLarge},
      {"turned_causal", {7, 0, 13}, {}, 4, 2, 10, true, Size::kSmall, true},
      {"turned_full", {1, 11}, {}, 1, 1, 2, false, Size::kSmall, true},
      {"turned_tiles", {45, 70}, {}, 4, 2, 36, true, Size::kLarge, true},
      {"decoder_8x128_h8_d32", {128, 128, 128, 128, 128, 128, 128, 128}, {}, 8, 4, 32, true, Size::kBench},
      {"decoder_4x256_h4_d64", {256, 256, 256, 256}, {}, 4, 2, 64, true, Size::kBench},
      {"turned_4x256_h4_d64", {256, 256, 256, 256}, {}, 4, 2, 64, true, Size::kBench, true},
      {"vision_8x196_h6_d64", {196, 196, 196, 196, 196, 196, 196, 196}, {}, 6, 6, 64, false, Size::kBench}};
  for (const Dims& d : both) {
    list.add(
        cat("attention/", d.name), [d](Rand& r) { return separate(r, d); }, d.size);
    list.add(
        cat("attention_packed/", d.name), [d](Rand& r) { return packed(r, d); }, d.size);
  }
  const Dims crossed[] = {{"cross_full", {3, 0, 5}, {9, 4, 2}, 2, 1, 6, false},
                          {"cross_causal", {3, 1, 0}, {9, 1, 4}, 2, 2, 6, true},
                          {"cross_turned", {3, 2}, {9, 4}, 2, 1, 6, false, Size::kSmall, true},
                          {"suffix_causal", {60, 3}, {131, 70}, 2, 1, 8, true, Size::kLarge}};
  for (const Dims& d : crossed)
    list.add(
        cat("attention/", d.name), [d](Rand& r) { return separate(r, d); }, d.size);
  const Dims caches[] = {{"one", {1}, {1}, 1, 1, 1, true},
                         {"step", {1}, {57}, 4, 2, 16, true},
                         {"turned", {2}, {57}, 4, 2, 16, true, Size::kSmall, true},
                         {"prefill", {53}, {53}, 4, 2, 16, true},
                         {"chunk", {10}, {120}, 2, 1, 32, true, Size::kLarge},
                         {"step_300_h8_d64", {1}, {300}, 8, 2, 64, true, Size::kBench}};
  for (const Dims& d : caches)
    list.add(
        cat("attention_cached/", d.name), [d](Rand& r) { return cached(r, d); }, d.size);
}

}  // namespace tpo::optest
