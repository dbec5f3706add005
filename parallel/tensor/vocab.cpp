#include "parallel/tensor/vocab.h"

#include "core/error.h"
#include "parallel/comm/process_group.h"
#include "parallel/tensor/cut.h"

namespace tpo {

VocabPart vocab_part(int64_t vocabulary, ProcessGroup& tp, std::string_view name) {
  return {
      .first = balanced_part(vocabulary, tp.rank(), tp.size()).begin,
      .vocabulary = vocabulary,
      .widest = (vocabulary + tp.size() - 1) / tp.size(),
      .index = tp.rank(),
      .parts = tp.size(),
      .gather = [&tp, name](const Tensor& mine, const Tensor& all) {
        tp.all_gather(mine, all, name.empty() ? "cross-entropy" : cat(name, ": cross-entropy")).wait(Stream::current());
      }};
}

}  // namespace tpo
