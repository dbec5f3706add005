#include "data/templates.h"

#include <algorithm>

#include "core/error.h"
#include "core/rng.h"
#include "data/bytes.h"
#include "data/frame_times.h"

namespace tpo {
namespace {

constexpr int32_t kNoLabel = -100;
constexpr std::string_view kChatMlBegin = "<|im_start|>", kChatMlEnd = "<|im_end|>";

Box4 box4(const data::Box& b) { return {b.x1(), b.y1(), b.x2(), b.y2()}; }

// Builds one document. Labels are kept per token and shifted at the end.
class Builder {
 public:
  Builder(const data::Sample& sample, const Tokenizer& tokenizer, const TemplateOptions& options)
      : sample_(sample), tokenizer_(tokenizer), options_(options) {}

  // Turns 0..last. Ends with the answer if the last turn is one, else where its answer begins.
  TokenizedSample run(int last) {
    int i = 0;
    std::string system;
    for (; i <= last && sample_.turns(i).role() == data::Turn::SYSTEM; ++i)
      system += cat(system.empty() ? "" : " ", sample_.turns(i).text());
    const bool chat_ml = options_.chat == ChatFormat::kChatMl;
    chat_ml ? system_block(system.empty() ? std::string(kChatMlSystem) : system) : media_segment(system);
    for (bool user = true; i <= last; ++i, user = !user) {
      const data::Turn& turn = sample_.turns(i);
      must(turn.role() == (user ? data::Turn::USER : data::Turn::ASSISTANT), "turns[", i,
           "] is out of order, expected ", user ? "a question" : "an answer");
      if (user) {
        chat_ml ? question_block(turn) : segment(" [INST] ", turn, " [/INST] ", Kind::kQuestion);
      } else {
        segment("", turn, "", Kind::kAnswer);
        push(tokenizer_.eos(), true);
        if (chat_ml && i < last) push_text("\n", false);
      }
    }
    return std::move(out_);
  }

  // Cuts at max_tokens and shifts the labels.
  static void finish(TokenizedSample& out, std::vector<int32_t> labels, int64_t max_tokens,
                     const data::Sample& sample) {
    if (static_cast<int64_t>(out.tokens.size()) > max_tokens) {
      for (const auto* rows : {&out.visual_rows, &out.region_rows, &out.box_in_rows}) {
        check<DataError>(rows->empty() || rows->back() < max_tokens, "sample '", sample.id(), "' has ",
                         out.tokens.size(), " tokens and a slot at position ", rows->empty() ? 0 : rows->back(),
                         ", which max_tokens = ", max_tokens, " would cut off; raise max_tokens or split the sample");
      }
      out.tokens.resize(static_cast<size_t>(max_tokens));
      labels.resize(static_cast<size_t>(max_tokens));
    }
    out.targets.assign(labels.begin() + 1, labels.end());
    out.targets.push_back(kNoLabel);
    out.loss_tokens =
        static_cast<int32_t>(std::count_if(out.targets.begin(), out.targets.end(), [](int32_t t) { return t >= 0; }));
  }

  std::vector<int32_t>& labels() { return labels_; }

 private:
  enum class Kind { kQuestion, kAnswer };

  template <class... Parts>
  void must(bool ok, const Parts&... parts) const {
    check<DataError>(ok, "sample '", sample_.id(), "': ", parts...);
  }

  void push(int32_t id, bool labelled) {
    out_.tokens.push_back(id);
    labels_.push_back(labelled ? id : kNoLabel);
  }

  void push_text(std::string_view text, bool labelled) {
    for (int32_t id : tokenizer_.encode(text)) push(id, labelled);
  }

  void begin_segment(bool labelled) {
    if (tokenizer_.bos() >= 0 && (options_.bos_per_segment || out_.tokens.empty()))
      push(tokenizer_.bos(), labelled && !out_.tokens.empty());
  }

  int32_t row() const { return static_cast<int32_t>(out_.tokens.size()); }

  bool is_clip(int medium) const { return sample_.media(medium).kind() == data::Media::JPEG_FRAMES; }

  // The visual slots of medium m.
  void slots(int m) {
    const bool clip = is_clip(m);
    int64_t count = clip ? options_.clip_slots : options_.image_slots, views = 1;
    if (!clip && options_.tiling) {
      const TileLayout tiles = options_.tiling->layout({sample_.media(m).width(), sample_.media(m).height()});
      count = tiles.slots(), views = tiles.views();
    }
    out_.views += static_cast<int32_t>(views);
    must(count > 0, "media[", m, "] is a ", clip ? "clip" : "picture", " but the template has ",
         clip ? "clip" : "image", "_slots = ", count);
    for (int64_t s = 0; s < count; ++s) {
      out_.visual_rows.push_back(row());
      push(0, false);
    }
  }

  bool is_temporal() const {
    return std::any_of(sample_.turns().begin(), sample_.turns().end(),
                       [](const data::Turn& t) { return t.spans_size() > 0; });
  }

  // About medium m; empty if it has none.
  std::string message(int m) const {
    if (!is_clip(m) || options_.frame_message == FrameMessage::kNever) return "";
    if (options_.frame_message == FrameMessage::kTemporalAndHalf && !is_temporal()) {
      const bool drawn = uniform_below(RngKey().with("frame message").with(sample_.id()), 0, 2) == 1;
      if (!drawn || sample_.media(m).fps() == 0) return "";
    }
    return cat("The clip is shown by ", options_.clip_frames, " frames, taken at ",
               frame_times(sample_, m, options_.clip_frames), " seconds.");
  }

  void media_segment(const std::string& system) {
    std::string text = system.empty() ? "" : system + " ";
    for (int m = 0; m < sample_.media_size(); ++m) {
      text += m == 0 ? "[INST] " : "";
      text += is_clip(m) ? "<Video>" : "<Image>";
      begin_segment(false);
      push_text(text, false);
      slots(m);
      text = cat(is_clip(m) ? "</Video>" : "</Image>", message(m));
    }
    if (sample_.media_size() > 0) text += "[/INST]";
    if (text.empty()) return;
    begin_segment(false);
    push_text(text, false);
  }

  void begin_block() { push(tokenizer_.added().find(kChatMlBegin)->id, false); }

  void end_block() {
    push(tokenizer_.eos(), false);
    push_text("\n", false);
  }

  void system_block(const std::string& system) {
    begin_segment(false);
    begin_block();
    push_text("system\n" + system, false);
    end_block();
  }

  void question_block(const data::Turn& turn) {
    begin_block();
    std::string text = "user\n";
    const int media = out_.visual_rows.empty() ? sample_.media_size() : 0;
    for (int m = 0; m < media; ++m) {
      push_text(text, false);
      slots(m);
      const std::string told = message(m);
      text = told.empty() ? "\n" : cat("\n", told, "\n");
    }
    segment(text, turn, "", Kind::kQuestion);
    end_block();
    begin_block();
    push_text("assistant\n", false);
  }

  // One turn between `before` and `after`, with its marks.
  void segment(std::string_view before, const data::Turn& turn, std::string_view after, Kind kind) {
    const bool answer = kind == Kind::kAnswer;
    const std::string whole = answer ? turn.text() : cat(before, without_media_marks(turn.text()), after);
    std::string_view text = whole;
    const std::string_view mark = answer ? "<box>" : "<track_box>";
    begin_segment(answer);
    int used = 0;
    while (true) {
      const size_t at = text.find(mark);
      std::string_view part = text.substr(0, at);
      if (at != std::string_view::npos && part.ends_with(' '))
        part.remove_suffix(1);  // the next piece brings its own space
      if (!part.empty()) push_text(part, answer);
      if (at == std::string_view::npos) break;
      must(used < turn.boxes_size() && turn.boxes(used) >= 0 && turn.boxes(used) < sample_.boxes_size(), "mark ", used,
           " (", mark, ") of a turn has no box");
      answer ? push_region(turn.boxes(used)) : push_box_input(turn.boxes(used));
      ++used;
      text.remove_prefix(at + mark.size());
    }
    must(used == turn.boxes_size(), "a turn has ", used, " ", mark, " marks but ", turn.boxes_size(), " boxes");
  }

  void push_region(int box) {
    push(id_of(TaskToken::kBoxBegin, tokenizer_), true);
    out_.region_rows.push_back(row());
    out_.region_targets.push_back(box4(sample_.boxes(box)));
    out_.region_boxes.push_back(box);
    push(id_of(TaskToken::kBoxes, tokenizer_), true);
  }

  void push_box_input(int box) {
    out_.box_in_rows.push_back(row());
    out_.box_in.push_back(box4(sample_.boxes(box)));
    push(id_of(TaskToken::kTrackBox, tokenizer_), false);
  }

  const data::Sample& sample_;
  const Tokenizer& tokenizer_;
  const TemplateOptions& options_;
  TokenizedSample out_;
  std::vector<int32_t> labels_;
};

constexpr std::string_view kRegion[] = {
    "Put a box on {}.",        "Which area shows {}?",          "Please locate {}.",
    "Mark the place of {}.",   "Where in the picture is {}?",   "Point out {} with a box.",
    "Can you find {} for me?", "Give the region that holds {}."};
constexpr std::string_view kTemporal[] = {"At what seconds does {} start and end?",
                                          "Report the segment that matches {}.", "Describe {} and say when it happens.",
                                          "During which part of the clip does {} take place?"};
constexpr std::string_view kTracking[] = {"Follow the object that starts inside <track_box>.",
                                          "Begin with box <track_box> and keep tracking it.",
                                          "Produce the path of the object first seen at <track_box>.",
                                          "Keep an eye on what <track_box> shows, frame by frame."};
constexpr std::string_view kReferring[] = {"Draw the route of {} over all frames.",
                                           "Segment {} and follow it to the end.", "Outline {} in every frame."};

}  // namespace

Templates::Templates(const Tokenizer& tokenizer, const TemplateOptions& options,
                     std::shared_ptr<const Tokenizer> connector_tokenizer)
    : tokenizer_(tokenizer), connector_tokenizer_(std::move(connector_tokenizer)), options_(options) {
  if (options.beside_media == TextBesideMedia::kNone) {
    connector_tokenizer_.reset();
  } else {
    check<ConfigError>(connector_tokenizer_ != nullptr && connector_tokenizer_->bos() >= 0,
                       "texts beside media need a tokenizer with begin and end marks, as BERT's");
    check<ConfigError>(options.beside_media_tokens >= 3, "beside_media_tokens is ", options.beside_media_tokens,
                       ", expected 3 or more");
  }
  const bool tells_times =
      options.beside_media == TextBesideMedia::kFrameTimes || options.frame_message != FrameMessage::kNever;
  check<ConfigError>(!tells_times || options.clip_frames >= 1, "clip_frames is ", options.clip_frames,
                     "; times of frames need 1 or more");
  check<ConfigError>(options.max_tokens >= 8 && options.max_tokens <= 1 << 20, "max_tokens is ", options.max_tokens,
                     ", expected 8..1048576");
  check<ConfigError>(options.image_slots >= 0 && options.clip_slots >= 0, "image_slots and clip_slots are ",
                     options.image_slots, " and ", options.clip_slots, ", expected 0 or more");
  if (options.tiling) {
    const auto& [side, patches, limits] = *options.tiling;
    check<ConfigError>(side >= 1 && patches >= 1 && limits.max_side >= 1 && limits.max_tiles >= 1,
                       "tiling has tiles of ", side, " pixels and ", patches, " patches, up to ", limits.max_side,
                       " a side and tokens of ", limits.max_tiles, "; expected 1 or more of each");
  }
  if (options.chat == ChatFormat::kChatMl) {
    const AddedToken* end = tokenizer.added().find(kChatMlEnd);
    check<ConfigError>(tokenizer.added().find(kChatMlBegin) != nullptr && end != nullptr && end->id == tokenizer.eos(),
                       "chat format chatml needs a tokenizer with ", kChatMlBegin, " and with ", kChatMlEnd,
                       " as its end mark (eos_token in tokenizer_config.json)");
  }
  const bool needs_bos = options.chat == ChatFormat::kMistral || options.bos_per_segment;
  check<ConfigError>(!needs_bos || tokenizer.bos() >= 0, "the tokenizer has no begin mark, which ",
                     options.bos_per_segment ? "bos_per_segment" : "chat format mistral", " needs");
}

ChatFormat chat_format_of(const Tokenizer& tokenizer) {
  return tokenizer.added().find(kChatMlBegin) != nullptr ? ChatFormat::kChatMl : ChatFormat::kMistral;
}

namespace {

// The connector's tokenizer has no slot for a box, and its reader no box: the mark would be letters.
std::string with_boxes_in_words(std::string text) {
  constexpr std::string_view kMark = "<track_box>", kWords = "the marked object";
  for (size_t at = text.find(kMark); at != std::string::npos; at = text.find(kMark, at + kWords.size()))
    text.replace(at, kMark.size(), kWords);
  return text;
}

}  // namespace

void Templates::add_connector_texts(const data::Sample& sample, TokenizedSample& out) const {
  const TextBesideMedia what = options_.beside_media;
  if (what == TextBesideMedia::kNone) return;
  std::string instruction;
  for (const data::Turn& turn : sample.turns()) {
    instruction += cat(instruction.empty() ? "" : " ", with_boxes_in_words(without_media_marks(turn.text())));
    if (turn.role() == data::Turn::USER) break;
  }
  std::vector<std::vector<int32_t>> texts;
  bool any = false;
  for (int m = 0, clips = 0; m < sample.media_size(); ++m) {
    texts.emplace_back();
    const bool clip = sample.media(m).kind() == data::Media::JPEG_FRAMES;
    if (!clip && what != TextBesideMedia::kInstructionOfAll) continue;
    any = true;
    const std::string text = what != TextBesideMedia::kFrameTimes
                                 ? instruction
                                 : cat("Clip number ", ++clips, " is shown by ", options_.clip_frames,
                                       " frames, taken at ", frame_times(sample, m, options_.clip_frames), " seconds.");
    const std::vector<int32_t> ids = connector_tokenizer_->encode(text);
    const size_t room = static_cast<size_t>(options_.beside_media_tokens) - 2,
                 skip = ids.size() - std::min(ids.size(), room);
    texts.back() = {connector_tokenizer_->bos()};
    texts.back().insert(texts.back().end(), ids.begin() + static_cast<std::ptrdiff_t>(skip), ids.end());
    texts.back().push_back(connector_tokenizer_->eos());
  }
  if (any) out.connector_texts = std::move(texts);
}

TokenizedSample Templates::encode(const data::Sample& sample) const {
  const int turns = sample.turns_size();
  check<DataError>(turns > 0 && sample.turns(turns - 1).role() == data::Turn::ASSISTANT, "sample '", sample.id(),
                   "' does not end with an answer");
  Builder builder(sample, tokenizer_, options_);
  TokenizedSample out = builder.run(turns - 1);
  add_connector_texts(sample, out);
  const size_t whole = out.tokens.size();
  Builder::finish(out, std::move(builder.labels()), options_.max_tokens, sample);
  check<DataError>(out.loss_tokens > 0, "sample '", sample.id(), "' has ", whole,
                   " tokens and no label within max_tokens = ", options_.max_tokens);
  return out;
}

TokenizedSample Templates::whole_prompt(const data::Sample& sample, int turn) const {
  check<DataError>(turn >= 0 && turn < sample.turns_size() && sample.turns(turn).role() == data::Turn::USER, "sample '",
                   sample.id(), "': turn ", turn, " is not a question");
  TokenizedSample out = Builder(sample, tokenizer_, options_).run(turn);
  add_connector_texts(sample, out);
  out.targets.assign(out.tokens.size(), kNoLabel);
  return out;
}

TokenizedSample Templates::encode_prompt(const data::Sample& sample, int turn) const {
  TokenizedSample out = whole_prompt(sample, turn);
  check<DataError>(static_cast<int64_t>(out.tokens.size()) <= options_.max_tokens, "sample '", sample.id(),
                   "': the prompt has ", out.tokens.size(), " tokens, at most max_tokens = ", options_.max_tokens,
                   " fit");
  return out;
}

std::optional<TokenizedSample> Templates::encode_prompt_if_it_fits(const data::Sample& sample, int turn) const {
  TokenizedSample out = whole_prompt(sample, turn);
  if (static_cast<int64_t>(out.tokens.size()) > options_.max_tokens) return std::nullopt;
  return out;
}

std::string without_media_marks(std::string text) {
  for (std::string_view mark : {"<image>", "<video>"}) {
    for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at)) text.erase(at, mark.size());
  }
  const size_t first = text.find_first_not_of(" \n\t"), last = text.find_last_not_of(" \n\t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

uint64_t Templates::fingerprint() const {
  std::string more;  // nothing for what is off, so that older indices stay right
  if (options_.beside_media != TextBesideMedia::kNone)
    more = cat(" beside media 2 ", static_cast<int>(options_.beside_media), " ", options_.beside_media_tokens, " ",
               options_.clip_frames, " ", connector_tokenizer_->fingerprint());
  if (options_.frame_message != FrameMessage::kNever)
    more += cat(" frame message ", static_cast<int>(options_.frame_message), " ", options_.clip_frames);
  if (const auto& t = options_.tiling)
    more += cat(" tiles ", t->tile, " ", t->patches, " ", t->limits.max_side, " ", t->limits.max_tiles);
  return xxh3(cat("templates ", kTemplateVersion, " ", tokenizer_.fingerprint(), " ", options_.max_tokens, " ",
                  options_.image_slots, " ", options_.clip_slots, " ", options_.bos_per_segment,
                  options_.chat == ChatFormat::kChatMl ? cat(" chatml ", kChatMlSystem) : "", more));
}

std::span<const std::string_view> region_prompts() { return kRegion; }
std::span<const std::string_view> temporal_prompts() { return kTemporal; }
std::span<const std::string_view> tracking_prompts() { return kTracking; }
std::span<const std::string_view> referring_prompts() { return kReferring; }

std::string fill_prompt(std::span<const std::string_view> prompts, uint64_t pick, std::string_view phrase) {
  std::string text(prompts[pick % prompts.size()]);
  const size_t at = text.find("{}");
  if (at != std::string::npos) text.replace(at, 2, phrase);
  return text;
}

}  // namespace tpo
