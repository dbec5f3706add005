#include <algorithm>
#include <functional>
#include <numeric>

#include "core/ops/attention.h"
#include "tests/op_case.h"

namespace tpo::optest {

void add_attention_cases(CaseList&);

namespace {

constexpr float kTheta = 1e4f;
const RngKey kDropKey = RngKey(5).with("attention");
constexpr int64_t kFirstHead = 3;  // of the whole, for dropout

struct Dims {
  const char* name;
  std::vector<int32_t> q, k;  // segment lengths; an empty k: as q
  int64_t q_heads, kv_heads, dim;
  bool causal;
  Size size = Size::kSmall;
  bool turns = false;      // rotary embedding inside
  int64_t bias_heads = 0;  // of a full bias; 0: none
  int64_t grid_w = 0;      // of a decomposed bias; 0: none
  bool masks = false;      // a third of the full bias is minus infinity
  float drop = 0;          // share of probabilities dropped

  const std::vector<int32_t>& keys() const { return k.empty() ? q : k; }
  AttentionSpec spec() const { return {q_heads, kv_heads, dim, causal, 0}; }
};

Dims dropped(float p, Dims d) {
  d.drop = p;
  return d;
}

std::vector<int32_t> cumulative(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> cu = {0};
  for (int32_t n : lengths) cu.push_back(cu.back() + n);
  return cu;
}

int64_t total(const std::vector<int32_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

// What is added to the score of a query row, head and key of its segment.
using Added = std::function<double(int64_t row, int64_t head, int64_t j)>;

// One query row of one head against keys [0, n) of columns at k0, v0 of a matrix; added(j) to the scores, probabilities
// times factor(j).
template <class Fn, class Factor>
void attend(const double* q, const Ref& k, const Ref& v, int64_t row0, int64_t k0, int64_t v0, int64_t n, int64_t dim,
            const Fn& added, const Factor& factor, double* out) {
  std::vector<double> p(static_cast<size_t>(n));
  double sum = 0;
  for (int64_t j = 0; j < n; ++j) {
    double s = 0;
    for (int64_t d = 0; d < dim; ++d) s += q[d] * k.at(row0 + j, k0 + d);
    sum += p[static_cast<size_t>(j)] = std::exp(s / std::sqrt(static_cast<double>(dim)) + added(j));
  }
  for (int64_t j = 0; j < n; ++j)
    for (int64_t d = 0; d < dim; ++d) out[d] += factor(j) * p[static_cast<size_t>(j)] / sum * v.at(row0 + j, v0 + d);
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
Ref reference(const Ref& q, const Ref& k, const Ref& v, const Dims& d, int64_t k0, int64_t v0, const Added& added = {},
              const Added& factor = {}) {
  Ref y({q.rows(), d.q_heads * d.dim});
  const auto cu_q = cumulative(d.q), cu_k = cumulative(d.keys());
  for (size_t s = 0; s < d.q.size(); ++s)
    for (int64_t i = 0; i < d.q[s]; ++i)
      for (int64_t h = 0; h < d.q_heads; ++h) {
        const int64_t lk = d.keys()[s], n = d.causal ? i + 1 + lk - d.q[s] : lk, kv = h / (d.q_heads / d.kv_heads);
        attend(
            &q.v[static_cast<size_t>((cu_q[s] + i) * q.cols() + h * d.dim)], k, v, cu_k[s], k0 + kv * d.dim,
            v0 + kv * d.dim, n, d.dim, [&](int64_t j) { return added ? added(cu_q[s] + i, h, j) : 0.0; },
            [&](int64_t j) { return factor ? factor(cu_q[s] + i, h, j) : 1.0; }, &y.at(cu_q[s] + i, h * d.dim));
      }
  return y;
}

// Scores of dim terms, an exponential of relative error 2e-7, a weighted mean of as many values as there are keys;
// where rows are turned, sines good to 1e-7 and two products more; a bias of up to 4 rounded once more when it is
// added; with dropout 1 - p, its inverse and a product.
double tolerance(const Dims& d) {
  return sum_tolerance(d.dim) + 1e-6 + (d.turns ? 4e-7 : 0) + (d.bias_heads + d.grid_w > 0 ? 1e-6 : 0) +
         (d.drop > 0 ? 3e-7 : 0);
}

// Where the optional inputs of a case stand; -1: absent.
struct Optional {
  int turn_q = -1, turn_k = -1, full = -1, rel_h = -1, rel_w = -1, row_ids = -1;
};

// Appends the optional inputs of d, of which the biases want gradients.
Optional add_optional(Rand& r, const Dims& d, bool one_turn, OpCase& c) {
  Optional at;
  const auto push = [&](const Tensor& t) {
    c.in.push_back(t);
    return static_cast<int>(c.in.size()) - 1;
  };
  const int64_t nq = total(d.q);
  if (d.turns) at.turn_q = push(r.integers(nq, 0, 300));
  if (d.turns) at.turn_k = one_turn ? at.turn_q : push(r.integers(total(d.keys()), 0, 300));
  if (d.bias_heads > 0) {
    const int64_t cols = *std::max_element(d.keys().begin(), d.keys().end()) + 2;
    Tensor full = r.normal({d.bias_heads, nq, cols});
    for (int64_t i = 0; d.masks && full.device() == Device::kCpu && i < full.numel(); ++i)
      if (i % cols != 0 && r.below(3) == 0) full.data<float>()[i] = -INFINITY;
    at.full = push(full);
    c.grads.push_back(at.full);
    c.f32_in.push_back(at.full);
  }
  if (d.grid_w > 0) {
    at.rel_h = push(r.normal({nq, d.q_heads * (d.keys()[0] / d.grid_w)}));
    at.rel_w = push(r.normal({nq, d.q_heads * d.grid_w}));
    c.grads.insert(c.grads.end(), {at.rel_h, at.rel_w});
  }
  if (d.drop > 0) at.row_ids = push(r.row_ids(nq));
  return at;
}

Tensor pick(Inputs v, int i) { return i < 0 ? Tensor() : v[static_cast<size_t>(i)]; }
AttentionRope rope_of(Inputs v, const Optional& at) { return {pick(v, at.turn_q), pick(v, at.turn_k), kTheta}; }
AttentionBias bias_of(Inputs v, const Optional& at) { return {pick(v, at.full), pick(v, at.rel_h), pick(v, at.rel_w)}; }
Added added_of(RefInputs v, const Optional& at, const Dims& d) {
  return [=](int64_t row, int64_t head, int64_t j) {
    double sum = 0;
    if (at.full >= 0) {
      const Ref& b = v[static_cast<size_t>(at.full)];
      sum += b[((d.bias_heads == 1 ? 0 : head) * b.shape[1] + row) * b.shape[2] + j];
    }
    if (at.rel_h < 0) return sum;
    const Ref &h = v[static_cast<size_t>(at.rel_h)], &w = v[static_cast<size_t>(at.rel_w)];
    return sum + h.at(row, head * (h.cols() / d.q_heads) + j / d.grid_w) + w.at(row, head * d.grid_w + j % d.grid_w);
  };
}

AttentionDropout dropout_of(Inputs v, const Optional& at, const Dims& d) {
  return {d.drop, kDropKey, pick(v, at.row_ids), kFirstHead};
}
// One counter at a time from core/rng.h, as the contract says.
Added factor_of(RefInputs v, const Optional& at, const Dims& d) {
  if (at.row_ids < 0) return {};
  return [=](int64_t row, int64_t head, int64_t j) {
    const auto id = static_cast<uint64_t>(static_cast<int64_t>(v[static_cast<size_t>(at.row_ids)][row]));
    const RngKey key = kDropKey.with(static_cast<uint64_t>(kFirstHead + head));
    const float u = uniform01(philox(key, static_cast<uint64_t>(j / 4), id)[static_cast<size_t>(j % 4)]);
    return u >= d.drop ? 1 / (1 - static_cast<double>(d.drop)) : 0;
  };
}

OpCase separate(Rand& r, const Dims& d) {
  const int64_t nq = total(d.q), nk = total(d.keys());
  OpCase c{.in = {r.normal({nq, d.q_heads * d.dim}), r.normal({nk, d.kv_heads * d.dim}),
                  r.normal({nk, d.kv_heads * d.dim}), r.of(cumulative(d.q)), r.of(cumulative(d.keys()))},
           .run = {},
           .ref = {},
           .grads = {0, 1, 2},
           .tol = tolerance(d)};
  const Optional at = add_optional(r, d, false, c);
  c.run = [=](Inputs v) {
    return attention(v[0], v[1], v[2], v[3], v[4], d.spec(), rope_of(v, at), bias_of(v, at), dropout_of(v, at, d));
  };
  c.ref = [=](RefInputs v) {
    const Added added = added_of(v, at, d), factor = factor_of(v, at, d);
    if (!d.turns) return reference(v[0], v[1], v[2], d, 0, 0, added, factor);
    return reference(turned(v[0], v[5], 0, d.q_heads, d.dim), turned(v[1], v[6], 0, d.kv_heads, d.dim), v[2], d, 0, 0,
                     added, factor);
  };
  return c;
}

OpCase packed(Rand& r, const Dims& d) {
  const int64_t k0 = d.q_heads * d.dim, v0 = k0 + d.kv_heads * d.dim;
  OpCase c{.in = {r.normal({total(d.q), v0 + d.kv_heads * d.dim}), r.of(cumulative(d.q))},
           .run = {},
           .ref = {},
           .grads = {0},
           .tol = tolerance(d)};
  const Optional at = add_optional(r, d, true, c);
  c.run = [=](Inputs v) {
    return attention_packed(v[0], v[1], d.spec(), rope_of(v, at), bias_of(v, at), dropout_of(v, at, d));
  };
  c.ref = [=](RefInputs v) {
    const Ref x = d.turns ? turned(v[0], v[2], 0, d.q_heads + d.kv_heads, d.dim) : v[0];
    return reference(x, x, x, d, k0, v0, added_of(v, at, d), factor_of(v, at, d));
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
      {"bias_shared", {7, 0, 13}, {}, 4, 2, 6, true, Size::kSmall, false, 1},
      {"bias_heads", {5, 11}, {}, 3, 1, 5, false, Size::kSmall, false, 3},
      {"bias_masked", {17, 6}, {}, 2, 2, 8, false, Size::kSmall, false, 2, 0, true},
      {"grid_3x5", {15, 15}, {}, 2, 1, 8, false, Size::kSmall, false, 0, 5},
      {"grid_1x1", {1}, {}, 1, 1, 1, true, Size::kSmall, false, 0, 1},
      {"all_4x3", {12}, {}, 4, 2, 6, true, Size::kSmall, true, 1, 3},
      {"bias_tiles", {97, 3, 50}, {}, 2, 1, 24, true, Size::kLarge, false, 1},
      {"bias_heads_tiles", {119}, {}, 2, 2, 16, false, Size::kLarge, false, 2},
      {"grid_10x13", {130}, {}, 4, 2, 24, false, Size::kLarge, false, 0, 13},
      {"grid_4x_14x14_h6_d64", {196, 196, 196, 196}, {}, 6, 6, 64, false, Size::kBench, false, 0, 14},
      {"bias_4x_196_h6_d64", {196, 196, 196, 196}, {}, 6, 6, 64, false, Size::kBench, false, 6},
      {"turned_4x256_h4_d64", {256, 256, 256, 256}, {}, 4, 2, 64, true, Size::kBench, true},
      dropped(0.3f, {"drop_few", {2, 0, 3}, {}, 2, 1, 5, false}),
      dropped(0.5f, {"drop_causal", {7, 0, 13}, {}, 4, 2, 6, true}),
      dropped(0.1f, {"drop_heads", {5, 11}, {}, 3, 1, 5, false, Size::kSmall, false, 3, 0, true}),
      dropped(0.4f, {"drop_all_4x3", {12}, {}, 4, 2, 6, true, Size::kSmall, true, 1, 3}),
      dropped(0.3f, {"drop_tiles", {97, 3, 50}, {}, 2, 1, 24, true, Size::kLarge, false, 1}),
      dropped(0.1f, {"drop_turned_tiles", {45, 149}, {}, 4, 2, 36, false, Size::kLarge, true}),
      dropped(0.1f, {"drop_8x196_h6_d64", {196, 196, 196, 196, 196, 196, 196, 196}, {}, 6, 6, 64, false, Size::kBench}),
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
                          {"cross_bias", {3, 0, 5}, {9, 4, 2}, 2, 1, 6, false, Size::kSmall, false, 2},
                          {"cross_bias_causal", {3, 2}, {9, 4}, 2, 2, 6, true, Size::kSmall, true, 1},
                          {"cross_grid_2x7", {4, 2}, {14, 14}, 4, 2, 6, false, Size::kSmall, false, 1, 7},
                          dropped(0.4f, {"cross_drop", {3, 0, 5}, {9, 4, 2}, 2, 1, 6, false}),
                          dropped(0.1f, {"cross_drop_long", {70, 3}, {131, 98}, 4, 2, 8, false, Size::kLarge}),
                          dropped(0.3f, {"suffix_drop", {60, 3}, {131, 70}, 2, 1, 8, true, Size::kLarge}),
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
