#pragma once
// Text to ids and back: what every tokenizer does around its model, which is marks, added tokens and task tokens.
// Tokenizers do not change once built, so that threads may share them.
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/tokenizer/added_tokens.h"

namespace tpo {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Ids in 0..vocab_size()-1, without begin or end marks. Special added tokens and task tokens that stand in the text
  // are text like any other, so that a sample cannot end a turn or fake a slot. Never throws for valid or invalid
  // UTF-8.
  std::vector<int32_t> encode(std::string_view text) const { return encode(text, false); }
  // The same, but they become their ids (task tokens vocab_size() + index), which is what public tokenizers do.
  std::vector<int32_t> encode_with_special(std::string_view text) const { return encode(text, true); }
  // Begin and end marks are left out. Throws DataError for an id without a token.
  std::string decode(std::span<const int32_t> ids) const;

  int32_t vocab_size() const { return vocab_size_; }  // one more than the greatest id; without the task tokens
  int32_t bos() const { return bos_; }                // -1: this tokenizer has no begin mark
  int32_t eos() const { return eos_; }
  const AddedTokens& added() const { return added_; }
  bool has(int32_t id) const;  // a token below vocab_size()
  // Ids below vocab_size() without a token, in order, as [first, second). A model has rows for them and must not write
  // them.
  const std::vector<std::pair<int32_t, int32_t>>& empty_ids() const { return empty_ids_; }
  // Hash of all that decides encode(), and of the marks: equal for equal tokenizers, however their files say it.
  uint64_t fingerprint() const { return fingerprint_; }

 protected:
  struct Parts {
    int32_t model_size = 0;         // ids of the model
    std::vector<AddedToken> added;  // may extend it, or fill its gaps
    std::string bos, eos;           // by their text; empty bos: none
    std::string name;               // begins messages
    std::string model;              // all else that decides encode()
  };
  // Called once, by the constructor of the kind, when its model is ready. Task tokens among the added ones must be the
  // last seven in order; where they are absent they are added behind. Throws DataError as AddedTokens does, for an id
  // of the model whose text is another, a text of the model with another id, or a mark that is no token.
  void complete(Parts parts);

  virtual std::string normalize(std::string_view text) const { return std::string(text); }
  // Text between added tokens, normalized, never empty.
  virtual void encode_piece(std::string_view text, std::vector<int32_t>& ids) const = 0;
  virtual std::string decode_run(std::span<const int32_t> ids) const = 0;  // ids of the model only
  virtual int32_t model_id(std::string_view token) const = 0;              // -1: not in the model
  virtual bool model_has(int32_t) const { return true; }                   // of an id of the model: it is no gap

 private:
  std::vector<int32_t> encode(std::string_view text, bool with_special) const;
  void set_added(std::vector<AddedToken> tokens, const std::string& name);
  void find_empty_ids();

  AddedTokens added_;
  std::vector<std::pair<int32_t, int32_t>> empty_ids_;
  int32_t vocab_size_ = 0, model_size_ = 0, bos_ = -1, eos_ = -1;
  uint64_t fingerprint_ = 0;
};

// New ids after the tokenizer's own, in this order: id = vocab_size + index.
enum class TaskToken : int32_t { kBoxBegin, kTimeBegin, kTemp, kBoxes, kTrackBegin, kTracking, kTrackBox };
constexpr std::array<std::string_view, 7> kTaskTokenText{"<box_begin>",   "<time_begin>", "<temp>",     "<boxes>",
                                                         "<track_begin>", "<tracking>",   "<track_box>"};
inline int32_t id_of(TaskToken t, const Tokenizer& tokenizer) {
  return tokenizer.vocab_size() + static_cast<int32_t>(t);
}

// decode() for ids that may hold task tokens, which come out as their text.
std::string decode_with_task_tokens(const Tokenizer& tokenizer, std::span<const int32_t> ids);
// The same for what a model wrote, which may be anything: an id without a token comes out as <id 7>. Never throws.
std::string decode_written(const Tokenizer& tokenizer, std::span<const int32_t> ids);

}  // namespace tpo
