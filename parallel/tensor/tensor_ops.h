#pragma once
// Ops between the ranks of the tensor axis. Convention: the loss is computed identically on every rank and counted
// once. A value is then one of three things, and so is its gradient:
//   whole    the same bits on every rank
//   partial  a rank's share of a sum over ranks
//   shard    rows [r R, (r + 1) R) on rank r with R = ceil(N / n); rows from N on are padding. Values there are
//            unspecified but finite, their gradients zero, and nothing reads them
//
//   op                 forward             backward
//   copy_to            whole (identity)    partial -> whole: all-reduce
//   reduce_from        partial -> whole    whole (identity)
//   gather_from        shard -> whole      partial -> shard: reduce-scatter
//   reduce_scatter_to  partial -> shard    shard -> whole: all-gather
//   split_to           whole -> shard      shard -> whole: all-gather
//   join_from          shard -> whole      whole -> shard: no communication
// gather_from feeds layers that are cut over ranks (their input gradients are partial), join_from what is the same on
// every rank. A group of one rank returns x and records nothing.
//
// x (N, C), f32 or bf16; sums are formed in fp32 in the order of ranks, so that all ranks have the same bits. Every
// rank of the group calls the same ops in the same order; so it does in backward and in recomputed blocks, whose second
// run issues the collectives of the forward again, except those whose result is kept (Keep::kProducts).
// `name`, of the weight that comes before or after, stands before the op in errors and in reports of the guard; its
// characters outlive the tape, as those of Param::name do. Throws ShapeError before any effect, CommError.
// Source: Shoeybi et al. 2019, arXiv:1909.08053; Korthikanti et al. 2022, arXiv:2205.05198.
#include <string_view>

#include "core/tape.h"

namespace tpo {

class ProcessGroup;

Tensor copy_to(const Tensor& x, ProcessGroup& tp, std::string_view name = {});

// Sum over ranks, plus bias (C) once if there is one. Written over x, which must be a result that nothing else reads,
// the backward of its op included: that of a matrix product or a lookup.
Tensor reduce_from(const Tensor& x, ProcessGroup& tp, const Tensor& bias = {}, std::string_view name = {});

// shard (R, C) -> (rows, C). Throws ShapeError unless R is ceil(rows / n).
Tensor gather_from(const Tensor& shard, int64_t rows, ProcessGroup& tp, std::string_view name = {});
// Each x (N, C) -> (R, C). The bias of reduce_scatter_to is added to the shard: its gradient is a partial one.
Tensor reduce_scatter_to(const Tensor& x, ProcessGroup& tp, const Tensor& bias = {}, std::string_view name = {});
Tensor split_to(const Tensor& x, ProcessGroup& tp, std::string_view name = {});
Tensor join_from(const Tensor& shard, int64_t rows, ProcessGroup& tp, std::string_view name = {});

// Columns of all ranks, of which each holds a balanced part: x (N, columns of this rank) -> (N, columns), whole.
// Backward: this rank's columns of a whole gradient.
Tensor join_columns(const Tensor& x, int64_t columns, ProcessGroup& tp, std::string_view name = {});

// Rows of a shard: ceil(rows / ranks).
int64_t shard_rows(int64_t rows, const ProcessGroup& tp);

}  // namespace tpo
