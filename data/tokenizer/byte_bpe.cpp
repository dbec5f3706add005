#include "data/tokenizer/byte_bpe.h"

#include <algorithm>
#include <queue>

#include "core/error.h"
#include "data/bytes.h"
#include "data/tokenizer/unicode.h"

namespace tpo {
namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

std::string describe(const ByteBpeModel& m) {
  std::string all =
      cat("byte_bpe ", unicode_version(), " ", static_cast<int>(m.rule), m.nfc, m.space_before, m.whole_words);
  const auto add = [&](int64_t number) { (all += ' ') += std::to_string(number); };  // a million: no streams here
  for (const std::string& t : m.tokens) add(static_cast<int64_t>(t.size())), all += t;
  for (const auto& x : m.merges) add(x.left), add(x.right), add(x.result), add(x.rank);
  return all;
}

}  // namespace

ByteBpeTokenizer::ByteBpeTokenizer(ByteBpeModel model) : model_(std::move(model)) {
  const std::string& name = model_.name;
  ids_.reserve(model_.tokens.size());
  byte_ids_.fill(-1);
  for (size_t i = 0; i < model_.tokens.size(); ++i) {
    const std::string& token = model_.tokens[i];
    if (token.empty()) continue;
    const bool fresh = ids_.emplace(token, static_cast<int32_t>(i)).second;
    check<DataError>(fresh, name, ": ids ", ids_.at(token), " and ", i, " have the same token '", token, "'");
    if (token.size() == 1) byte_ids_[static_cast<unsigned char>(token[0])] = static_cast<int32_t>(i);
  }
  for (size_t b = 0; b < 256; ++b) {
    check<DataError>(byte_ids_[b] >= 0, name, ": byte ", b, " has no token, so not every text can be encoded");
  }
  pairs_.reserve(model_.merges.size());
  for (const auto& m : model_.merges) {
    const bool fresh = pairs_.emplace(pair_key(m.left, m.right), Target{m.rank, m.result}).second;
    check<DataError>(fresh, name, ": merge ", m.rank, " of ids ", m.left, " and ", m.right, " stands twice");
  }
  stands_alone_.assign(model_.tokens.size(), model_.whole_words);
  std::vector<int32_t> ids;
  for (size_t i = 0; i < model_.tokens.size() && !model_.whole_words; ++i) {
    ids.clear();
    merge_word(model_.tokens[i], ids);
    stands_alone_[i] = ids == std::vector<int32_t>{static_cast<int32_t>(i)};
  }
  complete({static_cast<int32_t>(model_.tokens.size()), model_.added, model_.bos, model_.eos, name, describe(model_)});
}

const ByteBpeTokenizer::Target* ByteBpeTokenizer::target(int32_t left, int32_t right) const {
  const auto it = pairs_.find(pair_key(left, right));
  return it == pairs_.end() ? nullptr : &it->second;
}

// A linked list of symbols and a heap of the pairs that may merge: n log n for a word of n bytes. A heap entry is stale
// when its left symbol has changed or its right neighbour no longer makes this pair.
void ByteBpeTokenizer::merge_word(std::string_view word, std::vector<int32_t>& ids) const {
  struct Symbol {
    int32_t id, previous, next;  // id -1: merged into an earlier one
  };
  struct Candidate {
    int32_t rank, at, left, right;  // positions order equal ranks: leftmost first
    bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
  };
  const auto n = static_cast<int32_t>(word.size());
  std::vector<Symbol> symbols(word.size());
  for (int32_t i = 0; i < n; ++i) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(word[static_cast<size_t>(i)])];
    symbols[static_cast<size_t>(i)] = {id, i - 1, i + 1 < n ? i + 1 : -1};
  }
  std::priority_queue<Candidate> heap;
  const auto consider = [&](int32_t at) {
    const int32_t next = at < 0 ? -1 : symbols[static_cast<size_t>(at)].next;
    if (next < 0) return;
    const int32_t left = symbols[static_cast<size_t>(at)].id, right = symbols[static_cast<size_t>(next)].id;
    if (const Target* t = target(left, right)) heap.push({t->rank, at, left, right});
  };
  for (int32_t i = 0; i + 1 < n; ++i) consider(i);
  while (!heap.empty()) {
    const Candidate c = heap.top();
    heap.pop();
    Symbol& left = symbols[static_cast<size_t>(c.at)];
    if (left.id != c.left || left.next < 0 || symbols[static_cast<size_t>(left.next)].id != c.right) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    left.id = target(c.left, c.right)->id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = c.at;
    consider(left.previous);
    consider(c.at);
  }
  for (int32_t i = n > 0 ? 0 : -1; i >= 0; i = symbols[static_cast<size_t>(i)].next)
    ids.push_back(symbols[static_cast<size_t>(i)].id);
}

std::string ByteBpeTokenizer::normalize(std::string_view text) const {
  return model_.nfc ? nfc(text) : std::string(text);
}

void ByteBpeTokenizer::encode_piece(std::string_view text, std::vector<int32_t>& ids) const {
  std::string longer;
  if (model_.space_before && !text.starts_with(' ')) text = longer = cat(" ", text);
  for (std::string_view word : split_words(model_.rule, text)) {
    const auto it = ids_.find(word);
    if (it != ids_.end() && stands_alone_[static_cast<size_t>(it->second)]) {
      ids.push_back(it->second);
    } else {
      merge_word(word, ids);
    }
  }
}

std::string ByteBpeTokenizer::decode_run(std::span<const int32_t> ids) const {
  std::string text;
  for (int32_t id : ids) {
    text += model_.tokens[static_cast<size_t>(id)];
  }
  return text;
}

bool ByteBpeTokenizer::model_has(int32_t id) const { return !model_.tokens[static_cast<size_t>(id)].empty(); }

int32_t ByteBpeTokenizer::model_id(std::string_view token) const {
  const auto bytes = bytes_of_token(token);
  const auto it = bytes ? ids_.find(*bytes) : ids_.end();
  return it == ids_.end() ? -1 : it->second;
}

}  // namespace tpo
