#include "data/tokenizer/tokenizer.h"

#include <algorithm>

#include "core/error.h"

namespace tpo {

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool with_special) const {
  std::vector<int32_t> ids;
  for (const auto& raw : added_.split(text, false, with_special)) {
    if (raw.id >= 0) {
      ids.push_back(raw.id);
      continue;
    }
    const std::string normal = normalize(raw.text);
    for (const auto& piece : added_.split(normal, true, with_special)) {
      piece.id >= 0 ? ids.push_back(piece.id) : encode_piece(piece.text, ids);
    }
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  const auto is_model = [&](int32_t id) { return id < model_size_ && id != bos_ && id != eos_ && !added_.find(id); };
  for (size_t i = 0; i < ids.size();) {
    const int32_t id = ids[i];
    check<DataError>(id >= 0 && id < vocab_size_, "id ", id, " is outside the vocabulary of ", vocab_size_);
    size_t end = i;
    while (end < ids.size() && ids[end] >= 0 && is_model(ids[end])) ++end;
    if (end > i) {
      text += decode_run(ids.subspan(i, end - i));
      i = end;
      continue;
    }
    const AddedToken* token = added_.find(id);
    check<DataError>(token != nullptr || id == bos_ || id == eos_, "id ", id, " stands for nothing in this tokenizer");
    if (id != bos_ && id != eos_) text += token->text;
    ++i;
  }
  return text;
}

void Tokenizer::set_added(int32_t model_size, std::vector<AddedToken> tokens, const std::string& name) {
  model_size_ = vocab_size_ = model_size;
  int32_t found = 0;
  std::array<int32_t, kTaskTokenText.size()> task{};
  for (AddedToken& t : tokens) {
    const int32_t own = model_id(t.text);
    check<DataError>(own == t.id || (own < 0 && t.id >= model_size), name, ": added token '", t.text, "' has id ", t.id,
                     own >= 0 ? cat(", but the vocabulary has it as ", own) : ", which the vocabulary uses");
    vocab_size_ = std::max(vocab_size_, t.id + 1);
    const auto at = std::find(kTaskTokenText.begin(), kTaskTokenText.end(), t.text);
    if (t.normalized) t.text = normalize(t.text);  // it is looked for in normalized text
    if (at == kTaskTokenText.end()) continue;
    task[static_cast<size_t>(at - kTaskTokenText.begin())] = t.id;
    ++found;
  }
  const auto n = static_cast<int32_t>(task.size());
  bool in_order = found == n && vocab_size_ - n >= model_size;
  for (int32_t i = 0; i < n; ++i) in_order = in_order && task[static_cast<size_t>(i)] == vocab_size_ - n + i;
  check<DataError>(found == 0 || in_order, name, ": of the ", n, " task tokens ", found,
                   " are there, and they must be the last ids, in order, from ", kTaskTokenText[0], " to ",
                   kTaskTokenText[task.size() - 1]);
  if (found > 0) {
    vocab_size_ -= n;
  } else {
    for (int32_t i = 0; i < n; ++i)
      tokens.push_back({.text = std::string(kTaskTokenText[static_cast<size_t>(i)]), .id = vocab_size_ + i});
  }
  added_ = AddedTokens(std::move(tokens), name);
}

void Tokenizer::set_marks(const std::string& bos, const std::string& eos, const std::string& name) {
  const auto id = [&](const std::string& mark) {
    const AddedToken* token = added_.find(mark);
    const int32_t found = token != nullptr ? token->id : model_id(mark);
    check<DataError>(found >= 0, name, ": the mark '", mark, "' is no token");
    return found;
  };
  bos_ = bos.empty() ? -1 : id(bos);
  eos_ = id(eos);
}

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
