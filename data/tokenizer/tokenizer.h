#pragma once
// Text to ids and back. Implementations are thread-safe once built.
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tpo {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Ids in 0..vocab_size()-1, without begin or end marks. Never throws for valid or invalid UTF-8.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // Ids out of range throw DataError; begin and end marks are left out.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  virtual int32_t vocab_size() const = 0;
  virtual int32_t bos() const = 0;
  virtual int32_t eos() const = 0;
  virtual uint64_t fingerprint() const = 0;  // hash of all that decides encode()
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
