#include "data/tokenizer/tokenizer.h"

namespace tpo {

std::string decode_with_task_tokens(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  std::string text;
  const int32_t base = tokenizer.vocab_size(), end = base + static_cast<int32_t>(kTaskTokenText.size());
  for (size_t i = 0; i < ids.size();) {
    if (ids[i] >= base && ids[i] < end) {
      text += kTaskTokenText[static_cast<size_t>(ids[i++] - base)];
      continue;
    }
    size_t stop = i;
    while (stop < ids.size() && (ids[stop] < base || ids[stop] >= end)) ++stop;
    text += tokenizer.decode(ids.subspan(i, stop - i));
    i = stop;
  }
  return text;
}

}  // namespace tpo
