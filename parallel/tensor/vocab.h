#pragma once
// Cross-entropy over a vocabulary that is cut over the ranks of the tensor axis.
#include <string_view>

#include "core/ops/loss.h"

namespace tpo {

class ProcessGroup;

// The balanced part of this rank, for vocab_cross_entropy_part: one all-gather of 3 floats a row for every chunk of
// rows, the same number of equal ones on every rank and whatever the labels are.
// `name` as in tensor_ops.h.
// Source: Shoeybi et al. 2019, arXiv:1909.08053 (three all-reduces there).
VocabPart vocab_part(int64_t vocabulary, ProcessGroup& tp, std::string_view name = {});

}  // namespace tpo
