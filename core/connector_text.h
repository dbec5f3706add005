#pragma once
// The arrays that a batch carries for texts beside its media (model/connector/connector.h), made on the host.
#include <span>
#include <vector>

#include "core/batch.h"

namespace tpo {

// Adds connector_text.* for one text a medium, ids of the connector's vocabulary, each possibly empty.
//   slots    queries of a medium
//   row_ids  of the first visual row of each medium: dropout of text row j is keyed by -1 - (row_ids[i] * 2^16 + j),
//            which no visual row has; both stand in one self-attention
// Throws ShapeError unless there are as many row ids as texts, and a text has at most 2^16 tokens.
void add_connector_text(HostBatch& batch, std::span<const std::vector<int32_t>> texts, int64_t slots,
                        std::span<const int64_t> row_ids);

}  // namespace tpo
