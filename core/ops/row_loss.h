#pragma once
// Losses of rows, each the sum over rows of weight[r] times the row's loss, times `scale` -> (1) f32.
//   x, target  (..., C), C >= 1, R rows, both f32 or both bf16; computed in fp32, summed in double in a fixed order
//   weight     absent (1), or (R) f32. A row of weight 0 is a masked one: loss and gradient are 0, whatever it holds
//   scale      weight of the loss / fixed global count, so that losses of ranks and microbatches add
// If x wants a gradient it is formed in the same pass and kept, stored as x, until backward; operands are not saved. No
// gradient flows to targets and weights.
// Throws ShapeError naming the shapes, before any effect.
#include "core/kernels/row_loss.h"
#include "core/tape.h"

namespace tpo {

// -log softmax(x_r)[labels[r]], times class_weight[labels[r]] if given. labels (R) i32 in [0, C) or kIgnoreTarget
// (ops/loss.h), which costs nothing; class_weight (C) f32. Not divided by the weights' sum: that is the caller's scale.
// DataError naming row and value of a label out of range (host tensors only).
Tensor cross_entropy(const Tensor& x, const Tensor& labels, float scale, const Tensor& class_weight = {});

// sum_c -target[r,c] log softmax(x_r)[c]; target >= 0 need not sum to 1. Sums of cross-entropies over sets of positives
// (a rank-contrastive loss) are one such row.
Tensor soft_cross_entropy(const Tensor& x, const Tensor& target, float scale, const Tensor& weight = {});

// Kullback-Leibler divergence sum_c t (log t - log q), 0 log 0 = 0, with t and q the distributions of target and x:
// RowsAs::kLogits by softmax, kLogProbs (x only) as it stands, kProbs as it stands; probabilities of x below 1e-12
// count as 1e-12, without gradient. As torch's kl_div(log q, t, reduction sum).
Tensor kl_loss(const Tensor& x, RowsAs x_as, const Tensor& target, RowsAs target_as, float scale,
               const Tensor& weight = {});

// Dice loss of a mask: 1 - (2 sum_c p t + eps) / (sum_c p + sum_c t + eps) with p = sigmoid(x), t = target in [0, 1],
// eps > 0. Here a row is all of x behind its first dim: (R, ...). Source: Milletari et al. 2016, arXiv:1606.04797, with
// sums of p instead of squares, as SAM 2 has it.
Tensor dice_loss(const Tensor& x, const Tensor& target, float eps, float scale, const Tensor& weight = {});

}  // namespace tpo
