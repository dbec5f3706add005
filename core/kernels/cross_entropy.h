#pragma once
// Cross-entropy fused with the vocabulary projection. Compute-bound: one product for the loss alone, two more for the
// gradients of x and w (which a frozen w does not pay), none of them repeated.
#include <cstdint>

#include "core/cost.h"
#include "core/device.h"
#include "core/dtype.h"

namespace tpo {

class Stream;

// loss[0] = scale * sum over rows with target >= 0 of -log softmax(x w^T + xa b^T)[target], and the gradients that are
// not null. Rows with a negative target are skipped and get zero gradients; cost() counts them, since meta does not
// know them.
struct VocabCrossEntropy {
  static constexpr const char* kName = "vocab_cross_entropy";
  const void* x;           // (n, c)
  const void* w;           // (v, c)
  const int32_t* targets;  // (n)
  const void* xa;          // (n, r) or null
  const void* b;           // (v, r) or null
  float* loss;             // (1)
  void *dx, *dxa;          // like x, xa; null: not wanted
  float *dw, *db;          // of the shape of w, b, summed over chunks in fp32; null: not wanted
  float* scratch;          // scratch_floats()
  int64_t n, c, v, r;      // r is 0 without xa
  int64_t chunk;           // rows whose logits exist at a time
  float scale;
  DType dtype;  // of x, w, xa, b; logits are fp32, their gradient is stored like the operands it is multiplied with
  int64_t first = 0;  // w and b are rows [first, first + v) of the vocabulary, which targets count

  // Chunks of 8 MiB of logits stay in the last-level cache; at least 128 rows, so that the sum over chunks into dw
  // costs less than a tenth of its product.
  static int64_t rows_per_chunk(int64_t n, int64_t v) {
    const int64_t rows = (int64_t{1} << 21) / (v > 0 ? v : 1), floor = rows < 128 ? 128 : rows;
    return n < floor ? n : floor;
  }
  // Logits, their gradient (f32: in place); rows of x and xa gathered, their gradients; one loss per row.
  int64_t scratch_floats() const { return chunk * (v + (dtype == DType::kF32 ? 0 : (v + 1) / 2) + 2 * c + 2 * r) + n; }
  Cost cost() const {
    const int64_t products = 1 + (dx != nullptr) + (dw != nullptr),
                  low = r > 0 ? 1 + (dxa != nullptr) + (db != nullptr) : 0;
    return {2 * n * v * (c * products + r * low) + 20 * n * v, width_of(dtype) * (n + v) * (c + r) + 4 * n,
            width_of(dtype) * ((dx ? n * c : 0) + (dxa ? n * r : 0)) + 4 * ((dw ? v * c : 0) + (db ? v * r : 0))};
  }
};
void run(const VocabCrossEntropy&, Cpu, Stream&);
void run(const VocabCrossEntropy&, Cuda, Stream&);

// The same in two phases for a vocabulary in parts, for which k.loss is that of the whole vocabulary. Chunk `index` are
// the rows with a target from number index * k.chunk on, at most k.chunk of them; there are ceil(n / k.chunk) chunks
// whatever the targets, and at least one. k.scratch stays untouched between the phases of a chunk.
//
// First phase: logits, replaced by exp(logit - max), and of each row what the other parts must know:
//   stats[i] = (max of this part, sum of exp(logit - max) in this part, logit of the target or 0 if another part has
//   it)
struct VocabScores {
  static constexpr const char* kName = "vocab_scores";
  VocabCrossEntropy k;
  int64_t index;
  float* stats;  // (k.chunk, 3); zeros beyond the rows of the chunk
  Cost cost() const {
    const int64_t m = rows();
    return {2 * m * k.v * (k.c + k.r) + 16 * m * k.v, width_of(k.dtype) * (m + k.v) * (k.c + k.r) + 4 * m,
            12 * k.chunk};
  }
  int64_t rows() const { return k.n - index * k.chunk < k.chunk ? k.n - index * k.chunk : k.chunk; }
};
void run(const VocabScores&, Cpu, Stream&);
void run(const VocabScores&, Cuda, Stream&);

// Second phase, with the stats of all parts, which are combined in their order: gradients, and after the last chunk the
// loss. dx and dxa are this part's share of a sum over parts.
struct VocabGradients {
  static constexpr const char* kName = "vocab_gradients";
  VocabCrossEntropy k;
  int64_t index;
  const float* stats;  // (parts, k.chunk, 3)
  int parts, part;     // how many, and which one k.w is
  Cost cost() const {
    const int64_t m = VocabScores{k, index, nullptr}.rows(), wide = width_of(k.dtype);
    const int64_t products = (k.dx != nullptr) + (k.dw != nullptr), low = (k.dxa != nullptr) + (k.db != nullptr);
    const int64_t weights = 4 * k.v * ((k.dw ? k.c : 0) + (k.db ? k.r : 0)), again = index > 0 ? weights : 0;
    const int64_t read = (k.dx ? k.v * k.c : 0) + (k.dw ? m * k.c : 0) + (k.dxa ? k.v * k.r : 0) + (k.db ? m * k.r : 0);
    return {2 * m * k.v * (k.c * products + k.r * low) + 4 * m * k.v, wide * read + 12 * parts * k.chunk + again,
            wide * m * ((k.dx ? k.c : 0) + (k.dxa ? k.r : 0)) + weights};
  }
};
void run(const VocabGradients&, Cpu, Stream&);
void run(const VocabGradients&, Cuda, Stream&);

// y[i] (+)= s[0] * x[i]; x and y may be the same memory if they are stored alike.
struct ScaleByScalar {
  static constexpr const char* kName = "scale_by_scalar";
  const void* x;   // (n)
  const float* s;  // (1)
  void* y;         // (n)
  int64_t n;
  bool accumulate;
  DType dtype, y_dtype;
  Cost cost() const {
    return {2 * n, n * (width_of(dtype) + (accumulate ? width_of(y_dtype) : 0)), n * width_of(y_dtype)};
  }
};
void run(const ScaleByScalar&, Cpu, Stream&);
void run(const ScaleByScalar&, Cuda, Stream&);

}  // namespace tpo
