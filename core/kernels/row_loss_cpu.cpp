// Losses of rows. A row is brought to the form "weights t, a constant term, log q of x" and then handled alike. Rows
// are summed in order, in chunks that do not depend on threads, in double.
#include <cmath>
#include <vector>

#include "core/kernels/pointwise_math.h"
#include "core/kernels/row_loss.h"
#include "core/kernels/storage.h"
#include "core/kernels/sum_chunks.h"
#include "core/stream.h"

namespace tpo {

namespace {

float max_of(const float* x, int64_t n) {
  float top = x[0];
#pragma omp simd reduction(max : top)
  for (int64_t c = 0; c < n; ++c) top = x[c] > top ? x[c] : top;
  return top;
}

// e[c] = e^(x[c] - top); returns their sum. e may be x.
float exponentials(const float* x, float* e, float top, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < n; ++c) {
    const float v = math::exp(x[c] - top);
    e[c] = v;
    sum += v;
  }
  return sum;
}

// sum_c t log t of probabilities, with 0 log 0 = 0.
float sum_t_log_t(const float* t, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < n; ++c) sum += t[c] * math::log(t[c] + (t[c] < 1.2e-38f ? 1.0f : 0.0f));
  return sum;
}

// t = softmax of the row x; returns sum_c t log t.
float distribution(const float* x, float* t, int64_t n) {
  const float top = max_of(x, n), sum = exponentials(x, t, top, n), inverse = 1.0f / sum;
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t c = 0; c < n; ++c) {
    t[c] *= inverse;
    dot += t[c] == 0.0f ? 0.0f : t[c] * (x[c] - top);
  }
  return dot - std::log(sum);
}

// sum_c -t log q and, if g is not null, g = its gradient times factor. A weight of 0 meets -inf unharmed.
float cross_logits(const float* x, const float* t, float* g, float factor, int64_t n) {
  const float top = max_of(x, n);
  float mass = 0, dot = 0, sum = 0;
#pragma omp simd reduction(+ : mass, dot, sum)
  for (int64_t c = 0; c < n; ++c) {
    mass += t[c];
    dot += t[c] == 0.0f ? 0.0f : t[c] * (top - x[c]);
    sum += math::exp(x[c] - top);
  }
  if (g != nullptr) {
    const float share = factor * mass / sum;
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) g[c] = share * math::exp(x[c] - top) - factor * t[c];
  }
  return dot + mass * std::log(sum);
}

float cross_log_probs(const float* x, const float* t, float* g, float factor, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < n; ++c) sum += t[c] == 0.0f ? 0.0f : -t[c] * x[c];
  if (g != nullptr) {
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) g[c] = -factor * t[c];
  }
  return sum;
}

float cross_probs(const float* x, const float* t, float* g, float factor, int64_t n) {
  constexpr float kFloor = RowLoss::kFloor, kLogFloor = -27.6310211f;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < n; ++c) {
    const float y = math::log(x[c]);
    sum -= t[c] * (y < kLogFloor ? kLogFloor : y);
  }
  if (g != nullptr) {
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) g[c] = x[c] < kFloor ? 0.0f : -factor * t[c] / x[c];
  }
  return sum;
}

// One thread's rows.
class Rows {
 public:
  explicit Rows(const RowLoss& k) : k_(k), scratch_(static_cast<size_t>(3 * k.cols)) {}

  // weight times the loss of row r; writes its gradient if wanted.
  template <class T>
  float operator()(int64_t r) {
    const int64_t n = k_.cols;
    float *wide = scratch_.data(), *t = wide + n, *g = t + n;
    T* dx = k_.dx ? static_cast<T*>(k_.dx) + r * n : nullptr;
    const float weight = k_.weight ? k_.weight[r] : 1.0f;
    if (weight == 0.0f || (k_.labels && k_.labels[r] < 0)) {
      if (dx) std::fill(dx, dx + n, narrow<T>(0.0f));
      return 0;
    }
    const float constant = make_target<T>(r, wide, t);
    const float* x = read_row(static_cast<const T*>(k_.x) + r * n, wide, n);
    float* out = dx ? write_row(dx, g) : nullptr;
    const float value = constant + cross(x, t, out, weight * k_.scale);
    if (dx) finish_row(dx, out, n);
    return weight * value;
  }

 private:
  // Fills t; returns the part of the loss that does not depend on x.
  template <class T>
  float make_target(int64_t r, float* wide, float* t) const {
    const int64_t n = k_.cols;
    if (k_.labels) {
      const int32_t label = k_.labels[r];
      std::fill(t, t + n, 0.0f);
      t[label] = k_.class_weight ? k_.class_weight[label] : 1.0f;
      return 0;
    }
    const T* row = static_cast<const T*>(k_.target) + r * n;
    if (k_.target_as == RowsAs::kLogits) {
      const float entropy = distribution(read_row(row, wide, n), t, n);
      return k_.divergence ? entropy : 0;
    }
    convert(row, t, n);
    return k_.divergence ? sum_t_log_t(t, n) : 0;
  }

  float cross(const float* x, const float* t, float* g, float factor) const {
    switch (k_.x_as) {
      case RowsAs::kLogits:
        return cross_logits(x, t, g, factor, k_.cols);
      case RowsAs::kLogProbs:
        return cross_log_probs(x, t, g, factor, k_.cols);
      case RowsAs::kProbs:
        return cross_probs(x, t, g, factor, k_.cols);
    }
    return 0;
  }

  const RowLoss& k_;
  std::vector<float> scratch_;  // the row of x or of the target, t, the gradient: (3, cols)
};

}  // namespace

void run(const RowLoss& k, Cpu, Stream&) {
  with_storage(k.dtype, [&]<class T>() {
    const auto part = [&](int64_t begin, int64_t end) {
      Rows rows(k);
      double sum = 0;
      for (int64_t r = begin; r < end; ++r) sum += static_cast<double>(rows.template operator()<T>(r));
      return sum;
    };
    const double sum = sum_chunks<double>(k.rows, part, 1, row_grain(k.cols, kHeavyGrain));
    *k.loss = static_cast<float>(static_cast<double>(k.scale) * sum);
  });
}

}  // namespace tpo
