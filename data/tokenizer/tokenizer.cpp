#include "data/tokenizer/tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "data/bytes.h"

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
  const auto is_model = [&](int32_t id) {
    return id < model_size_ && id != bos_ && id != eos_ && has(id) && !added_.find(id);
  };
  for (size_t i = 0; i < ids.size();) {
    const int32_t id = ids[i];
    check<DataError>(id >= 0 && id < vocab_size_, "id ", id, " is outside the vocabulary of ", vocab_size_);
    size_t end = i;
    while (end < ids.size() && is_model(ids[end])) ++end;
    if (end > i) {
      text += decode_run(ids.subspan(i, end - i));
      i = end;
      continue;
    }
    check<DataError>(has(id), "id ", id, " stands for nothing in this tokenizer");
    if (id != bos_ && id != eos_) text += added_.find(id)->text;
    ++i;
  }
  return text;
}

bool Tokenizer::has(int32_t id) const {
  const auto above = std::upper_bound(empty_ids_.begin(), empty_ids_.end(), std::pair{id, INT32_MAX});
  return id >= 0 && id < vocab_size_ && (above == empty_ids_.begin() || id >= std::prev(above)->second);
}

void Tokenizer::complete(Parts parts) {
  model_size_ = vocab_size_ = parts.model_size;
  set_added(std::move(parts.added), parts.name);
  const auto id_of_mark = [&](const std::string& mark) {
    const AddedToken* token = added_.find(mark);
    const int32_t found = token != nullptr ? token->id : model_id(mark);
    check<DataError>(found >= 0, parts.name, ": the mark '", mark, "' is no token");
    return found;
  };
  bos_ = parts.bos.empty() ? -1 : id_of_mark(parts.bos);
  eos_ = id_of_mark(parts.eos);
  find_empty_ids();
  fingerprint_ = xxh3(cat(parts.model, " ", model_size_, " ", bos_, " ", eos_, describe(added_.all())));
}

void Tokenizer::find_empty_ids() {
  std::vector<int32_t> behind;  // ids of added tokens behind the model
  for (const AddedToken& t : added_.all())
    if (t.id >= model_size_ && t.id < vocab_size_) behind.push_back(t.id);
  std::sort(behind.begin(), behind.end());
  behind.push_back(vocab_size_);
  const auto put = [&](int32_t begin, int32_t end) {
    if (!empty_ids_.empty() && empty_ids_.back().second == begin) {
      empty_ids_.back().second = end;
    } else if (begin < end) {
      empty_ids_.emplace_back(begin, end);
    }
  };
  for (int32_t id = 0; id < model_size_; ++id)
    if (!model_has(id) && !added_.find(id)) put(id, id + 1);
  int32_t next = model_size_;
  for (const int32_t id : behind) put(next, id), next = id + 1;
}

void Tokenizer::set_added(std::vector<AddedToken> tokens, const std::string& name) {
  int32_t found = 0;
  std::array<int32_t, kTaskTokenText.size()> task{};
  for (AddedToken& t : tokens) {
    const int32_t own = model_id(t.text);
    const bool is_free = t.id < 0 || t.id >= model_size_ || !model_has(t.id);  // AddedTokens refuses those below 0
    check<DataError>(own == t.id || (own < 0 && is_free), name, ": added token '", t.text, "' has id ", t.id,
                     own >= 0 ? cat(", but the vocabulary has it as ", own) : ", which the vocabulary uses");
    vocab_size_ = std::max(vocab_size_, t.id + 1);
    const auto at = std::find(kTaskTokenText.begin(), kTaskTokenText.end(), t.text);
    if (t.normalized) t.text = normalize(t.text);  // it is looked for in normalized text
    if (at == kTaskTokenText.end()) continue;
    t.special = true;  // whatever the file says: no text of a sample fakes a slot
    task[static_cast<size_t>(at - kTaskTokenText.begin())] = t.id;
    ++found;
  }
  const auto n = static_cast<int32_t>(task.size());
  bool in_order = found == n && vocab_size_ - n >= model_size_;
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

std::string decode_written(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  const int32_t base = tokenizer.vocab_size(), end = base + static_cast<int32_t>(kTaskTokenText.size());
  const auto known = [&](int32_t id) { return tokenizer.has(id) || (id >= base && id < end); };
  std::string text;
  for (size_t i = 0; i < ids.size();) {
    size_t stop = i;
    while (stop < ids.size() && known(ids[stop])) ++stop;
    text += decode_with_task_tokens(tokenizer, ids.subspan(i, stop - i));
    for (i = stop; i < ids.size() && !known(ids[i]); ++i) text += cat("<id ", ids[i], ">");
  }
  return text;
}

}  // namespace tpo
