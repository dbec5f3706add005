#include "core/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "core/kernels/attention.h"
#include "core/kernels/rope_table.h"
#include "core/launch.h"
#include "core/ops/op_util.h"

namespace tpo {

namespace {

void check_spec(const char* op, const AttentionSpec& s) {
  check_shape(s.q_heads >= 1 && s.kv_heads >= 1 && s.q_heads % s.kv_heads == 0 && s.head_dim >= 1 && s.scale >= 0, "[",
              op, "] q_heads ", s.q_heads, ", kv_heads ", s.kv_heads, ", head_dim ", s.head_dim, ", scale ", s.scale,
              ": kv_heads must divide q_heads, all positive, scale not negative");
}

void check_operand(const char* op, const char* what, const Tensor& t, int64_t width) {
  check_float(op, t, what);
  check_shape(t.rank() == 2 && t.dim(1) == width, "[", op, "] ", what, " ", t.shape(), " must be (rows, ", width, ")");
}

void check_cu(const char* op, const char* what, const Tensor& cu, int64_t rows) {
  check_i32_vector(op, cu, what);
  check_shape(cu.dim(0) >= 1, "[", op, "] ", what, " is empty, must hold S + 1 values");
  if (cu.device() != Device::kCpu) return;
  const int32_t* p = cu.data<int32_t>();
  const int64_t n = cu.dim(0);
  check<DataError>(p[0] == 0 && p[n - 1] == rows, "[", op, "] ", what, " runs from ", p[0], " to ", p[n - 1],
                   ", must run from 0 to ", rows);
  for (int64_t i = 1; i < n; ++i)
    check<DataError>(p[i] >= p[i - 1], "[", op, "] ", what, "[", i, "] = ", p[i], " is below its predecessor ",
                     p[i - 1]);
}

// Every query needs a key.
void check_segments(const char* op, const Tensor& cu_q, const Tensor& cu_k, bool causal) {
  check_shape(cu_q.dim(0) == cu_k.dim(0), "[", op, "] cu_q ", cu_q.shape(), " and cu_k ", cu_k.shape(), " must agree");
  if (cu_q.device() != Device::kCpu) return;
  const int32_t *q = cu_q.data<int32_t>(), *k = cu_k.data<int32_t>();
  for (int64_t i = 0; i + 1 < cu_q.dim(0); ++i) {
    const int32_t lq = q[i + 1] - q[i], lk = k[i + 1] - k[i];
    check<DataError>(lq == 0 || (lk > 0 && (!causal || lk >= lq)), "[", op, "] segment ", i, " has ", lq,
                     " queries and ", lk, " keys; ",
                     causal ? "causal attention needs at least as many keys" : "it needs keys");
  }
}

AttentionShape shape_of(const AttentionSpec& s, int64_t q_rows, int64_t k_rows) {
  AttentionShape a;
  a.q_rows = q_rows, a.k_rows = k_rows;
  a.q_heads = s.q_heads, a.kv_heads = s.kv_heads, a.dim = s.head_dim;
  a.causal = s.causal;
  a.scale = s.scale > 0 ? s.scale : 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  return a;
}

// Heads of t that begin at column `first`, head_dim apart.
HeadView heads(const Tensor& t, int64_t first, int64_t dim) {
  return {static_cast<char*>(t.raw()) + first * width_of(t.dtype()), last_dim(t), dim, t.dtype()};
}

void check_rope(const char* op, const AttentionRope& rope, int64_t q_rows, int64_t k_rows, int64_t dim) {
  for (const auto& [t, what, rows] : {std::tuple{&rope.q, "rope.q", q_rows}, {&rope.k, "rope.k", k_rows}}) {
    if (!t->defined()) continue;
    check_i32_vector(op, *t, what);
    check_shape(t->dim(0) == rows && dim % 2 == 0 && rope.theta > 0, "[", op, "] ", what, " ", t->shape(), " must be (",
                rows, "), with even head_dim (", dim, ") and positive theta (", rope.theta, ")");
  }
}

// Angles of the rows of q and k, made for one launch: as large as one head of them.
struct Turn {
  Tensor q, k;
  Turn(const AttentionRope& rope, int64_t dim) : q(table(rope.q, rope.theta, dim)) {
    const bool same = rope.q.defined() && rope.k.defined() && rope.q.raw() == rope.k.raw();
    k = same && rope.q.dim(0) == rope.k.dim(0) ? q : table(rope.k, rope.theta, dim);
  }
  AttentionTurn view() const { return {f32(q), f32(k)}; }

 private:
  static Tensor table(const Tensor& positions, float theta, int64_t dim) {
    if (!positions.defined()) return {};
    const Tensor t = Tensor::empty({positions.dim(0), dim});
    launch(RopeTable{i32(positions), f32(t), positions.dim(0), dim, theta});
    return t;
  }
};

void check_bias(const char* op, const AttentionBias& bias, const Tensor& q, const Tensor& cu_q, const Tensor& cu_k,
                const AttentionSpec& spec) {
  const int64_t N = q.dim(0), H = spec.q_heads;
  if (bias.full.defined()) {
    const Tensor& t = bias.full;
    check_f32(op, t, "bias.full");
    check_shape(t.rank() == 3 && (t.dim(0) == 1 || t.dim(0) == H) && t.dim(1) == N, "[", op, "] bias.full ", t.shape(),
                " must be (1 or ", H, ", ", N, ", keys)");
  }
  check_shape(bias.rel_h.defined() == bias.rel_w.defined(), "[", op, "] bias.rel_h and bias.rel_w come together");
  if (bias.rel_h.defined()) {
    for (const auto& [t, what] : {std::pair{&bias.rel_h, "bias.rel_h"}, {&bias.rel_w, "bias.rel_w"}}) {
      check_like(op, *t, what, q);
      check_shape(t->rank() == 2 && t->dim(0) == N && t->dim(1) % H == 0 && t->dim(1) > 0, "[", op, "] ", what, " ",
                  t->shape(), " must be (", N, ", ", H, " * grid side)");
    }
  }
  if (cu_q.device() != Device::kCpu) return;
  const int32_t *begin = cu_q.data<int32_t>(), *keys = cu_k.data<int32_t>();
  for (int64_t i = 0; i + 1 < cu_q.dim(0); ++i) {
    const int64_t lk = keys[i + 1] - keys[i];
    if (begin[i + 1] == begin[i]) continue;
    check<DataError>(!bias.full.defined() || lk <= bias.full.dim(2), "[", op, "] segment ", i, " has ", lk,
                     " keys, bias.full only ", bias.full.defined() ? bias.full.dim(2) : 0);
    const int64_t grid = bias.rel_h.defined() ? bias.rel_h.dim(1) / H * (bias.rel_w.dim(1) / H) : lk;
    check<DataError>(lk == grid, "[", op, "] segment ", i, " has ", lk, " keys, the grid of bias.rel_h and rel_w ",
                     grid);
  }
}

void check_dropout(const char* op, const AttentionDropout& d, int64_t rows) {
  check_shape(d.p >= 0 && d.p < 1, "[", op, "] dropout.p is ", d.p, ", must be in [0, 1)");
  check_shape(d.first_head >= 0, "[", op, "] dropout.first_head is ", d.first_head, ", must not be negative");
  check_shape(!d.on() || (d.row_ids.dtype() == DType::kI64 && d.row_ids.shape() == Shape{rows}), "[", op,
              "] dropout.row_ids ", d.row_ids.shape(), " must be (", rows, ") i64");
}

AttentionDropView view(const AttentionDropout& d) {
  if (!d.on()) return {};
  return {static_cast<const int64_t*>(d.row_ids.raw()), d.key, d.p, d.first_head};
}

// Heads of t, or a null view of an undefined tensor.
HeadView grid_heads(const Tensor& t, int64_t q_heads) {
  return t.defined() ? heads(t, 0, last_dim(t) / q_heads) : HeadView{};
}

AttentionBiasView view(const AttentionBias& b, int64_t q_heads) {
  AttentionBiasView v;
  if (b.full.defined()) v.full = f32(b.full), v.heads = b.full.dim(0), v.cols = b.full.dim(2);
  v.rel_h = grid_heads(b.rel_h, q_heads), v.rel_w = grid_heads(b.rel_w, q_heads);
  v.grid_h = v.rel_h.head, v.grid_w = v.rel_w.head;
  return v;
}

std::vector<int32_t> slots_of(std::initializer_list<const Tensor*> in) {
  std::vector<int32_t> slots;
  for (const Tensor* t : in) slots.push_back(t->slot());
  return slots;
}

// Where the kernel writes gradients. Inputs that are one value share a slot of the tape, whose destination a kernel
// that writes several at once can have only once: the others go to memory of their own and are added after the launch.
class Targets {
 public:
  Targets(GradSink& dx, std::span<const int32_t> slots) : dx_(dx), slots_(slots) {}
  // For input i, of the shape and storage of `like`; undefined if it is not wanted.
  GradDest take(int i, const Tensor& like) {
    if (!dx_.wants(i)) return {};
    const auto before = slots_.first(static_cast<size_t>(i));
    const bool shared = std::find(before.begin(), before.end(), slots_[static_cast<size_t>(i)]) != before.end();
    const GradDest d = shared ? GradDest{empty_like(like), false} : dx_.destination(i);
    (shared ? late_ : held_).emplace_back(i, d.grad);
    return d;
  }
  AttentionBiasGrad take_bias(int first, const AttentionBias& bias, int64_t q_heads) {
    const GradDest full = take(first, bias.full), h = take(first + 1, bias.rel_h), w = take(first + 2, bias.rel_w);
    return {f32(full.grad), grid_heads(h.grad, q_heads), grid_heads(w.grad, q_heads), full.accumulate, h.accumulate,
            w.accumulate};
  }
  // After the launch.
  void finish() {
    held_.clear();
    for (const auto& [i, grad] : late_) dx_.add(i, grad);
  }

 private:
  GradSink& dx_;
  std::span<const int32_t> slots_;
  std::vector<std::pair<int, Tensor>> held_, late_;
};

Tensor kept(const Tensor& t) { return t.defined() ? t.detach() : t; }
AttentionRope kept(const AttentionRope& r) { return {kept(r.q), kept(r.k), r.theta}; }
AttentionBias kept(const AttentionBias& b) { return {kept(b.full), kept(b.rel_h), kept(b.rel_w)}; }
AttentionDropout kept(const AttentionDropout& d) { return {d.p, d.key, kept(d.row_ids), d.first_head}; }

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu_q, const Tensor& cu_k,
                 const AttentionSpec& spec, const AttentionRope& rope, const AttentionBias& bias,
                 const AttentionDropout& dropout) {
  check_spec("attention", spec);
  check_operand("attention", "q", q, spec.q_heads * spec.head_dim);
  check_operand("attention", "k", k, spec.kv_heads * spec.head_dim);
  check_operand("attention", "v", v, spec.kv_heads * spec.head_dim);
  check_like("attention", k, "k", q);
  check_like("attention", v, "v", q);
  check_shape(k.dim(0) == v.dim(0), "[attention] k ", k.shape(), " and v ", v.shape(), " must have the same rows");
  check_cu("attention", "cu_q", cu_q, q.dim(0));
  check_cu("attention", "cu_k", cu_k, k.dim(0));
  check_segments("attention", cu_q, cu_k, spec.causal);
  check_rope("attention", rope, q.dim(0), k.dim(0), spec.head_dim);
  check_bias("attention", bias, q, cu_q, cu_k, spec);
  check_dropout("attention", dropout, q.dim(0));

  AttentionShape s = shape_of(spec, q.dim(0), k.dim(0));
  s.cu_q = i32(cu_q), s.cu_k = i32(cu_k), s.segments = cu_q.dim(0) - 1;
  const int64_t D = spec.head_dim;
  Tensor y = empty_like(q), lse = Tensor::empty({spec.q_heads, q.dim(0)});
  {
    const Turn turn(rope, D);
    launch(AttentionFwd{s, heads(q, 0, D), heads(k, 0, D), heads(v, 0, D), heads(y, 0, D), f32(lse), turn.view(),
                        view(bias, s.q_heads), view(dropout)});
  }
  record(
      "attention", {q, k, v, bias.full, bias.rel_h, bias.rel_w}, {&y},
      [s, D, q = q.detach(), k = k.detach(), v = v.detach(), y = y.detach(), lse, cu_q = cu_q.detach(),
       cu_k = cu_k.detach(), rope = kept(rope), bias = kept(bias), dropout = kept(dropout),
       slots = slots_of({&q, &k, &v, &bias.full, &bias.rel_h, &bias.rel_w})](std::span<const Tensor> dy, GradSink& dx) {
        const Turn turn(rope, D);
        AttentionBwd b{.s = s,
                       .q = heads(q, 0, D),
                       .k = heads(k, 0, D),
                       .v = heads(v, 0, D),
                       .out = heads(y, 0, D),
                       .dout = heads(dy[0], 0, D),
                       .lse = f32(lse),
                       .turn = turn.view(),
                       .bias = view(bias, s.q_heads),
                       .drop = view(dropout)};
        Targets targets(dx, slots);
        b.dbias = targets.take_bias(3, bias, s.q_heads);
        const GradDest dq = targets.take(0, q);
        GradDest dk = targets.take(1, k), dv = targets.take(2, v);
        if (dq.grad.defined()) b.dq = heads(dq.grad, 0, D), b.accumulate_q = dq.accumulate;
        // The kernel makes both gradients; one that is not wanted goes to a buffer that is dropped.
        if (dk.grad.defined() || dv.grad.defined()) {
          if (!dk.grad.defined()) dk.grad = empty_like(k);
          if (!dv.grad.defined()) dv.grad = empty_like(v);
          b.dk = heads(dk.grad, 0, D), b.accumulate_k = dk.accumulate;
          b.dv = heads(dv.grad, 0, D), b.accumulate_v = dv.accumulate;
        }
        launch(b);
        targets.finish();
      });
  return y;
}

Tensor attention_packed(const Tensor& qkv, const Tensor& cu, const AttentionSpec& spec, const AttentionRope& rope,
                        const AttentionBias& bias, const AttentionDropout& dropout) {
  check_spec("attention_packed", spec);
  const int64_t D = spec.head_dim, k0 = spec.q_heads * D, v0 = k0 + spec.kv_heads * D, N = rows_of(qkv);
  check_operand("attention_packed", "qkv", qkv, v0 + spec.kv_heads * D);
  check_cu("attention_packed", "cu", cu, N);
  check_rope("attention_packed", rope, N, N, D);
  check_bias("attention_packed", bias, qkv, cu, cu, spec);
  check_dropout("attention_packed", dropout, N);

  AttentionShape s = shape_of(spec, N, N);
  s.cu_q = s.cu_k = i32(cu), s.segments = cu.dim(0) - 1;
  Tensor y = Tensor::empty({N, k0}, qkv.dtype()), lse = Tensor::empty({spec.q_heads, N});
  {
    const Turn turn(rope, D);
    launch(AttentionFwd{s, heads(qkv, 0, D), heads(qkv, k0, D), heads(qkv, v0, D), heads(y, 0, D), f32(lse),
                        turn.view(), view(bias, s.q_heads), view(dropout)});
  }
  record("attention_packed", {qkv, bias.full, bias.rel_h, bias.rel_w}, {&y},
         [s, D, k0, v0, qkv = qkv.detach(), y = y.detach(), lse, cu = cu.detach(), rope = kept(rope), bias = kept(bias),
          dropout = kept(dropout),
          slots = slots_of({&qkv, &bias.full, &bias.rel_h, &bias.rel_w})](std::span<const Tensor> dy, GradSink& dx) {
           const Turn turn(rope, D);
           AttentionBwd b{.s = s,
                          .q = heads(qkv, 0, D),
                          .k = heads(qkv, k0, D),
                          .v = heads(qkv, v0, D),
                          .out = heads(y, 0, D),
                          .dout = heads(dy[0], 0, D),
                          .lse = f32(lse),
                          .turn = turn.view(),
                          .bias = view(bias, s.q_heads),
                          .drop = view(dropout)};
           Targets targets(dx, slots);
           b.dbias = targets.take_bias(1, bias, s.q_heads);
           if (const GradDest d = targets.take(0, qkv); d.grad.defined()) {
             b.dq = heads(d.grad, 0, D), b.dk = heads(d.grad, k0, D), b.dv = heads(d.grad, v0, D);
             b.accumulate_q = b.accumulate_k = b.accumulate_v = d.accumulate;
           }
           launch(b);
           targets.finish();
         });
  return y;
}

void attention_cached(const Tensor& q, const Tensor& cache_k, const Tensor& cache_v, int64_t len,
                      const AttentionSpec& spec, const Tensor& out, const AttentionRope& rope) {
  check_spec("attention_cached", spec);
  const int64_t D = spec.head_dim;
  check_operand("attention_cached", "q", q, spec.q_heads * D);
  check_operand("attention_cached", "out", out, spec.q_heads * D);
  check_operand("attention_cached", "cache_k", cache_k, spec.kv_heads * D);
  check_operand("attention_cached", "cache_v", cache_v, spec.kv_heads * D);
  for (const auto& [t, what] : {std::pair{&out, "out"}, {&cache_k, "cache_k"}, {&cache_v, "cache_v"}})
    check_like("attention_cached", *t, what, q);
  check_shape(out.dim(0) == q.dim(0), "[attention_cached] out ", out.shape(), " must be ", q.shape());
  check_shape(len >= 1 && len <= cache_k.dim(0) && len <= cache_v.dim(0) && (!spec.causal || len >= q.dim(0)),
              "[attention_cached] len ", len, " must be in 1..", cache_k.dim(0), " for cache ", cache_k.shape(),
              " and, if causal, at least the rows of q ", q.shape());
  check_shape(!rope.k.defined(), "[attention_cached] rope.k must be undefined: the cache holds turned keys");
  check_rope("attention_cached", rope, q.dim(0), len, D);
  const AttentionShape s = shape_of(spec, q.dim(0), len);
  const Turn turn(rope, D);
  launch(AttentionFwd{s, heads(q, 0, D), heads(cache_k, 0, D), heads(cache_v, 0, D), heads(out, 0, D), nullptr,
                      turn.view()});
  record_data("attention_cached");
}

}  // namespace tpo
