#pragma once
// Text to ids and back: what every tokenizer does around its model, which is marks, added tokens and task tokens.
// Tokenizers do not change once built, so that threads may share them.
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
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
  // Ids out of range throw DataError; begin and end marks are left out.
  std::string decode(std::span<const int32_t> ids) const;

  int32_t vocab_size() const { return vocab_size_; }  // one more than the greatest id; without the task tokens
  int32_t bos() const { return bos_; }                // -1: this tokenizer has no begin mark
  int32_t eos() const { return eos_; }
  const AddedTokens& added() const { return added_; }
  uint64_t fingerprint() const { return fingerprint_; }  // hash of all that decides encode()

 protected:
  // Called once, when the model is ready. `model_size` is the number of ids of the model; `tokens` may extend it. Task
  // tokens among them must be the last seven in order; where they are absent they are added behind. Throws DataError
  // as AddedTokens does, and for an id of the model whose text is another, or a text of the model with another id.
  void set_added(int32_t model_size, std::vector<AddedToken> tokens, const std::string& name);
  // Marks by their text; an empty bos: none. Throws DataError for a text that is no token.
  void set_marks(const std::string& bos, const std::string& eos, const std::string& name);
  void set_fingerprint(uint64_t model) { fingerprint_ = model; }

  virtual std::string normalize(std::string_view text) const { return std::string(text); }
  // Text between added tokens, normalized, never empty.
  virtual void encode_piece(std::string_view text, std::vector<int32_t>& ids) const = 0;
  virtual std::string decode_run(std::span<const int32_t> ids) const = 0;  // ids of the model only
  virtual int32_t model_id(std::string_view token) const = 0;              // -1: not in the model

 private:
  std::vector<int32_t> encode(std::string_view text, bool with_special) const;

  AddedTokens added_;
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

}  // namespace tpo
