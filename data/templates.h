#pragma once
// From a sample to token ids, labels and slots. One document per sample, all its questions and answers packed.
// Mistral:
//   <s> {system text}[INST] <Image>{slots}</Image>[/INST]          only with media; <Video>..</Video> for clips;
//   several media in order then per question and answer:   [INST] {question} [/INST] {answer}</s>
// ChatML (Qwen2), S = <|im_start|> and E = <|im_end|>:
//   S system\n{system text, else the default one}E\n   then per question and answer:
//   S user\n{slots}\n{question}E\n S assistant\n{answer}E\n    slots of each medium and a line end: first question only
// A clip may be followed by a message that tells the times of its frames (FrameMessage): </Video>{message}, or in
// ChatML {slots}\n{message}\n. Only answers, with their end marks, carry labels. In an answer the mark <box> becomes
// <box_begin><boxes> (trigger and slot); in a question <track_box> is an input slot. The pieces are tokenized one by
// one. <image> and <video> marks in questions say that media belong to the sample; they are taken out of the text,
// since media stand in front.
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tile_layout.h"
#include "data/sample.pb.h"
#include "data/tokenizer/tokenizer.h"

namespace tpo {

constexpr uint64_t kTemplateVersion =
    1;  // part of the key of a length index; raise it when any text or rule here changes

enum class ChatFormat { kMistral, kChatMl };
// ChatML where the tokenizer has <|im_start|>, else Mistral.
ChatFormat chat_format_of(const Tokenizer& tokenizer);
constexpr std::string_view kChatMlSystem = "You are a helpful assistant.";  // what Qwen2 was tuned with

// Texts for a connector that reads one beside a medium (a Q-Former), with a tokenizer of their own:
//   kFrameTimes            of a clip: its number among the clips, how many frames are taken of it, at which seconds
//   kInstruction           of a clip: the system text and the first question
//   kInstructionOfAll      the same, of pictures too
enum class TextBesideMedia { kNone, kFrameTimes, kInstruction, kInstructionOfAll };

// When the message about frame times is given. kTemporalAndHalf: to every sample with a turn that names spans, and to
// half of the others, drawn by sample id (Philox), so that a sample has it always or never and its length is known. A
// clip of unknown frame rate is an error, but for that half, which then has no message.
enum class FrameMessage { kNever, kAlways, kTemporalAndHalf };

struct TemplateOptions {
  int64_t max_tokens = 1024;
  int32_t image_slots = 0;  // visual slots of a picture; range 1.. when samples have pictures
  int32_t clip_slots = 0;   // of a clip (all its frames together)
  // Pictures are cut into tiles, and fill slots by their size (tile_layout) instead of image_slots.
  std::optional<PictureTiling> tiling = {};
  int32_t clip_frames = 0;  // frames that are taken of a clip, for what tells their times (frame_times.h)
  FrameMessage frame_message = FrameMessage::kNever;
  TextBesideMedia beside_media = TextBesideMedia::kNone;
  int32_t beside_media_tokens = 512;  // at most, marks included; of a longer text the beginning is left out
  bool bos_per_segment = false;       // compatibility with the released weights: every tokenized piece starts with <s>
  ChatFormat chat = ChatFormat::kMistral;
  // Whether a microbatch holds pictures or clips, never both: clips have more frames, or pictures tiles.
  bool pictures_apart() const { return tiling.has_value() || clip_frames > 1; }
};

using Box4 = std::array<float, 4>;  // x1 y1 x2 y2, fractions of the picture

struct TokenizedSample {
  std::vector<int32_t> tokens;                        // (N) visual slots are 0
  std::vector<int32_t> targets;                       // (N) label of the NEXT position, or -100
  std::vector<int32_t> visual_rows;                   // positions of visual slots, in media order
  std::vector<int32_t> region_rows;                   // positions of <boxes>
  std::vector<Box4> region_targets;                   // one per region row
  std::vector<int32_t> region_boxes;                  // index into Sample.boxes per region row
  std::vector<int32_t> box_in_rows;                   // positions of <track_box>
  std::vector<Box4> box_in;                           // one per box_in row
  int32_t loss_tokens = 0;                            // targets that are not -100
  std::vector<std::vector<int32_t>> connector_texts;  // one a medium, perhaps empty, as [CLS] .. [SEP]; none: no texts
  int32_t views = 0;  // media as the encoder sees them: each view of a tiled picture counts
};

// Thread-safe. Keeps a reference to the tokenizer, and shares that of the connector's texts.
class Templates {
 public:
  // Throws ConfigError for options out of range, a tokenizer without the marks of the chat format, or one whose end
  // mark is not the format's, since generation would not stop; for texts beside media without a tokenizer with marks.
  Templates(const Tokenizer& tokenizer, const TemplateOptions& options,
            std::shared_ptr<const Tokenizer> connector_tokenizer = nullptr);

  // The whole sample. Longer than max_tokens: the tail is cut; if a slot (visual, <boxes>, <track_box>) or every label
  // would be cut, DataError. Marks that do not match their lists, turns out of order, media without slots: DataError
  // naming the sample.
  TokenizedSample encode(const data::Sample& sample) const;

  // For generation: everything up to and including user turn `turn` (index into Sample.turns), earlier answers
  // included; ends where the answer begins, no labels. Never cut: DataError if longer than max_tokens.
  TokenizedSample encode_prompt(const data::Sample& sample, int turn) const;
  // The same, or nothing if it is longer than max_tokens.
  std::optional<TokenizedSample> encode_prompt_if_it_fits(const data::Sample& sample, int turn) const;

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const Tokenizer* connector_tokenizer() const { return connector_tokenizer_.get(); }  // null: no texts beside media
  const TemplateOptions& options() const { return options_; }
  uint64_t fingerprint() const;  // of tokenizer, template version and options

 private:
  TokenizedSample whole_prompt(const data::Sample& sample, int turn) const;
  void add_connector_texts(const data::Sample& sample, TokenizedSample& out) const;
  const Tokenizer& tokenizer_;
  std::shared_ptr<const Tokenizer> connector_tokenizer_;
  TemplateOptions options_;
};

// The text of a question without its <image> and <video> marks and the white space at both ends.
std::string without_media_marks(std::string text);

// Prompts for importers, own wording. {} stands for the phrase; tracking prompts hold <track_box> instead.
std::span<const std::string_view> region_prompts();
std::span<const std::string_view> temporal_prompts();
std::span<const std::string_view> tracking_prompts();
std::span<const std::string_view> referring_prompts();
// Prompt number `pick` modulo the count, with {} replaced.
std::string fill_prompt(std::span<const std::string_view> prompts, uint64_t pick, std::string_view phrase);
constexpr std::string_view kRegionAnswer = "It is at <box>.";

}  // namespace tpo
