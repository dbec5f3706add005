#pragma once
// Losses; those of boxes stand in box_loss.h. Each returns a (1) fp32 tensor already multiplied by `scale`, which the
// plan knows before the step (weight / global count), so that summing over microbatches and ranks is all that is left.
// The incoming gradient multiplies.
#include <functional>

#include "core/ops/box_loss.h"
#include "core/tape.h"

namespace tpo {

inline constexpr int32_t kIgnoreTarget = -100;  // rows with this target carry no loss

// scale * sum over rows with a target of -log softmax(x w^T + xa b^T)[target]: cross-entropy fused with the vocabulary
// projection and its low-rank addition.
// Operands f32 or bf16, all alike; logits and loss are f32.
//   x (N, C), w (V, C), targets (N) i32 in [0, V) or kIgnoreTarget, xa (N, r) and b (V, r) both or neither -> (1)
// Logits exist for a chunk of rows only. Gradients of all four are formed in the same pass, while the chunk is in cache
// (three products in all, the least possible), and multiplied by dy in backward; the price is one buffer of the shape
// of each input that wants a gradient, from here to the backward, which for the last op of a model follows at once.
// Rows without a target are skipped: they cost no product.
// Throws ShapeError; DataError naming row and value of a target out of range (host tensors only).
Tensor vocab_cross_entropy(const Tensor& x, const Tensor& w, const Tensor& targets, float scale, const Tensor& xa = {},
                           const Tensor& b = {});

// Rows [first, first + V) of a vocabulary that is cut into parts, and how the parts exchange what they know of a chunk.
struct VocabPart {
  int64_t first = 0, vocabulary = 0;  // the whole has `vocabulary` rows
  int64_t widest = 0;                 // rows of the largest part: chunks are the same for all
  int index = 0, parts = 1;
  // Fills all (parts * m, 3) with `mine` (m, 3) of every part, in order. Called once a chunk, as often whatever the
  // targets are.
  std::function<void(const Tensor& mine, const Tensor& all)> gather;
};
// vocab_cross_entropy of the whole vocabulary, the same bits on every part. w and b are the rows of this part, targets
// count the whole. The gradients of x and xa are this part's share of a sum over parts.
Tensor vocab_cross_entropy_part(const Tensor& x, const Tensor& w, const Tensor& targets, float scale,
                                const VocabPart& part, const Tensor& xa = {}, const Tensor& b = {});

}  // namespace tpo
