#include "parallel/tensor/vocab.h"

#include "parallel/comm/process_group.h"
#include "parallel/tensor/cut.h"

namespace tpo {

VocabPart vocab_part(int64_t vocabulary, ProcessGroup& tp) {
  return {.first = balanced_part(vocabulary, tp.rank(), tp.size()).begin,
          .vocabulary = vocabulary,
          .widest = (vocabulary + tp.size() - 1) / tp.size(),
          .index = tp.rank(),
          .parts = tp.size(),
          .gather = [&tp](const Tensor& mine, const Tensor& all) {
            tp.all_gather(mine, all, "cross-entropy").wait(Stream::current());
          }};
}

}  // namespace tpo
