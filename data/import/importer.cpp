#include "data/import/importer.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/rng.h"
#include "data/staged.h"
#include "data/templates.h"

namespace tpo {

namespace fs = std::filesystem;

namespace {

// Thrown inside a record to leave it without an error.
struct SkipRecord {
  std::string reason;
};

std::string stem(const std::string& path) { return fs::path(path).stem().string(); }

// System turns only in front; then user and assistant by turns, an answer last.
void check_turn_order(const data::Sample& sample) {
  int i = 0;
  while (i < sample.turns_size() && sample.turns(i).role() == data::Turn::SYSTEM) ++i;
  check<DataError>(i < sample.turns_size(), "has no question and answer");
  for (int k = i; k < sample.turns_size(); ++k) {
    const bool user = (k - i) % 2 == 0;
    const data::Turn& turn = sample.turns(k);
    check<DataError>(turn.role() == (user ? data::Turn::USER : data::Turn::ASSISTANT), "turn ", k, " must be the ",
                     user ? "user's" : "assistant's", ": turns alternate and begin with the user");
    const bool blank = turn.text().find_first_not_of(" \t\r\n") == std::string::npos;
    check<DataError>(user || !blank, "turn ", k, " is an empty answer");
  }
  check<DataError>((sample.turns_size() - i) % 2 == 0, "the last question has no answer");
}

}  // namespace

int count_marks(const std::string& text, const std::string& mark) {
  int n = 0;
  for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at + mark.size())) ++n;
  return n;
}

int64_t ImportReport::skipped_total() const {
  int64_t n = 0;
  for (const auto& [reason, count] : skipped) n += count;
  return n;
}

std::string ImportReport::text() const {
  std::string out =
      cat("records ", records, ", samples written ", written, ", records skipped ", skipped_total(), "\n");
  for (const auto& [reason, count] : skipped) out += cat("  ", count, " x ", reason, "\n");
  for (const std::string& message : messages) out += "  skipped " + message + "\n";
  if (skipped_total() > static_cast<int64_t>(messages.size()) && !messages.empty()) {
    out += cat("  ... and ", skipped_total() - static_cast<int64_t>(messages.size()), " more\n");
  }
  return out;
}

SampleSink::SampleSink(ImportOptions options, DatasetWriter& writer)
    : options_(std::move(options)),
      writer_(writer),
      finder_(options_.image_root, options_.image_index, options_.search_names) {}

void SampleSink::skip(const std::string& where, const std::string& reason) {
  ++report_.skipped[reason];
  if (report_.messages.size() < ImportReport::kMessages) report_.messages.push_back(where + ": " + reason);
}

void SampleSink::fail(const std::string& where, const std::string& message, const std::string& reason) {
  // The message may begin with the record already, or with a place inside it.
  const std::string full = message.rfind(where, 0) == 0 ? message : where + ": " + message;
  if (options_.on_error == ImportOptions::OnError::kStop) throw DataError(full);
  ++report_.skipped[reason];
  if (report_.messages.size() < ImportReport::kMessages) report_.messages.push_back(full);
}

void SampleSink::record(const std::string& where, const std::function<void()>& fn) {
  ++report_.records;
  try {
    fn();
  } catch (const SkipRecord& s) {
    skip(where, s.reason);
  } catch (const MissingPicture& e) {
    fail(where, e.what(), "picture is missing");
  } catch (const DataError& e) {
    fail(where, e.what(), "error");
  }
}

bool SampleSink::fit_box(data::Box& box, double width, double height, const std::string& where) const {
  std::array<double, 4> v{box.x1(), box.y1(), box.x2(), box.y2()};
  const auto text = [&] { return cat("box [", v[0], ", ", v[1], ", ", v[2], ", ", v[3], "] px"); };
  for (double x : v) check<DataError>(std::isfinite(x), where, ": ", text(), " is not finite");
  check<DataError>(v[0] < v[2] && v[1] < v[3], where, ": ", text(), " has no area or its corners are out of order");
  const double outside = std::max({-v[0], -v[1], v[2] - width, v[3] - height});
  // 1e-3: float32 fractions times the size do not give whole pixels back.
  if (outside > options_.tolerance_px + 1e-3 && options_.outside_box != ImportOptions::OutsideBox::kClip) {
    if (options_.outside_box == ImportOptions::OutsideBox::kSkip) return false;
    throw DataError(cat(where, ": ", text(), " leaves the picture of ", width, " x ", height, " by ",
                        std::round(outside * 100) / 100, " px; --outside_box=clip or skip accepts that"));
  }
  for (int i = 0; i < 4; ++i) v[i] = std::clamp(v[i], 0.0, i % 2 == 0 ? width : height);
  check<DataError>(v[0] < v[2] && v[1] < v[3], where, ": ", text(), " lies outside the picture of ", width, " x ",
                   height);
  box.set_x1(static_cast<float>(v[0] / width));
  box.set_y1(static_cast<float>(v[1] / height));
  box.set_x2(static_cast<float>(v[2] / width));
  box.set_y2(static_cast<float>(v[3] / height));
  return true;
}

void SampleSink::fit_boxes(const std::string& where, Draft& draft) const {
  data::Sample& sample = draft.sample;
  const auto fit = [&](data::Box& box, const std::string& name) {
    const std::string place = cat(where, ", ", name);
    check<DataError>(box.media() >= 0 && box.media() < sample.media_size(), place, ": media ", box.media(),
                     " does not exist; the record has ", sample.media_size());
    const data::Media& media = sample.media(box.media());
    check<DataError>(box.frame() >= 0 && box.frame() < media.frame_bytes_size(), place, ": frame ", box.frame(),
                     " does not exist; the media has ", media.frame_bytes_size());
    const double w = media.width(), h = media.height();
    if (draft.units == Draft::Units::kFraction) {
      box.set_x1(static_cast<float>(box.x1() * w));
      box.set_x2(static_cast<float>(box.x2() * w));
      box.set_y1(static_cast<float>(box.y1() * h));
      box.set_y2(static_cast<float>(box.y2() * h));
    }
    if (!fit_box(box, w, h, place)) throw SkipRecord{"a box outside the picture"};
  };
  for (int i = 0; i < sample.boxes_size(); ++i) fit(*sample.mutable_boxes(i), cat("box ", i));
  for (int t = 0; t < sample.tracks_size(); ++t) {
    for (int i = 0; i < sample.tracks(t).boxes_size(); ++i) {
      fit(*sample.mutable_tracks(t)->mutable_boxes(i), cat("track ", t, " box ", i));
    }
  }
}

void SampleSink::fill_media(const std::string& file, const std::string& where, Draft& draft,
                            std::vector<std::byte>& bytes) {
  const std::string base = fs::path(file).parent_path().string();
  for (const MediaRef& ref : draft.media) {
    std::vector<std::string> paths;
    for (const std::string& name : ref.files) paths.push_back(finder_.find(name, base));
    if (ref.clip && paths.size() == 1 && fs::is_directory(paths[0])) paths = frames_in(paths[0]);
    data::Media& media = *draft.sample.add_media();
    for (const std::string& path : paths) {
      // Several records in a row often use one picture.
      if (!last_ || last_->path != path) last_ = load_picture(path);
      const PictureFile& picture = *last_;
      check<DataError>(!ref.clip || picture.kind == data::Media::JPEG, path, ": frames of a clip must be JPEG");
      if (media.frame_bytes_size() == 0) {
        media.set_kind(ref.clip ? data::Media::JPEG_FRAMES : picture.kind);
        media.set_width(picture.width);
        media.set_height(picture.height);
        media.set_source(ref.files[0]);
        media.set_fps(static_cast<float>(ref.clip && ref.fps == 0 ? options_.frame_fps : ref.fps));
      }
      check<DataError>(media.width() == picture.width && media.height() == picture.height, path, ": is ", picture.width,
                       " x ", picture.height, " but the clip's first frame is ", media.width(), " x ", media.height());
      media.add_frame_bytes(static_cast<uint32_t>(picture.bytes.size()));
      bytes.insert(bytes.end(), picture.bytes.begin(), picture.bytes.end());
    }
    check<DataError>(ref.width == 0 || (ref.width == media.width() && ref.height == media.height()), where,
                     ": says that ", ref.files[0], " is ", ref.width, " x ", ref.height, " but the picture is ",
                     media.width(), " x ", media.height());
  }
}

void SampleSink::claim_id(const std::string& where, const std::string& id) {
  // 64-bit hashes: with 10 million samples a false alarm has a chance of 3 in a million.
  const auto [held, fresh] = seen_.emplace(hash_name(id), "");
  if (!fresh) throw DataError(cat(where, ": id '", id, "' is already used by ", held->second));
  held->second = where;
}

void SampleSink::add(const std::string& file, const std::string& where, Draft draft) {
  data::Sample& sample = draft.sample;
  if (sample.id().empty()) sample.set_id(cat(stem(file), "-", report_.records - 1));
  std::vector<std::byte> bytes;
  check_turn_order(sample);
  place_media_marks(draft, where);
  fill_media(file, where, draft, bytes);
  fit_boxes(where, draft);
  check_sample(sample, bytes.size());
  claim_id(where, sample.id());
  writer_.add(sample, bytes);
  ++report_.written;
}

void add_turn(data::Sample& sample, data::Turn::Role role, const std::string& text) {
  data::Turn& turn = *sample.add_turns();
  turn.set_role(role);
  turn.set_text(text);
}

void add_region_turns(data::Sample& sample, int box) {
  const std::string& phrase = sample.boxes(box).phrase();
  const uint64_t pick = RngKey(hash_name(sample.id())).with(phrase).value >> 1;
  add_turn(sample, data::Turn::USER, fill_prompt(region_prompts(), pick, phrase));
  add_turn(sample, data::Turn::ASSISTANT, std::string(kRegionAnswer));
  sample.mutable_turns(sample.turns_size() - 1)->add_boxes(box);
}

void place_media_marks(Draft& draft, const std::string& where) {
  int images = 0, clips = 0, image_marks = 0, clip_marks = 0, first_user = -1;
  for (const MediaRef& ref : draft.media) ++(ref.clip ? clips : images);
  for (int i = 0; i < draft.sample.turns_size(); ++i) {
    const data::Turn& turn = draft.sample.turns(i);
    if (turn.role() != data::Turn::USER) continue;
    if (first_user < 0) first_user = i;
    image_marks += count_marks(turn.text(), "<image>");
    clip_marks += count_marks(turn.text(), "<video>");
  }
  if (image_marks + clip_marks == 0 && first_user >= 0) {
    std::string marks;
    for (const MediaRef& ref : draft.media) marks += ref.clip ? "<video>\n" : "<image>\n";
    data::Turn& turn = *draft.sample.mutable_turns(first_user);
    turn.set_text(marks + turn.text());
    return;
  }
  check<DataError>(image_marks == images && clip_marks == clips, where, ": the questions hold ", image_marks,
                   " <image> and ", clip_marks, " <video> marks but the record has ", images, " picture(s) and ", clips,
                   " clip(s)");
}

const std::vector<ImportFormat>& import_formats() {
  static const std::vector<ImportFormat> kFormats{
      {"llava", "conversation", import_llava, "LLaVA conversations, VideoChat QA or LLaMA-Factory messages JSON"},
      {"coco-instances", "region", import_coco_instances, "COCO instances JSON: category names with their boxes"},
      {"coco-captions", "conversation", import_coco_captions, "COCO captions JSON"},
      {"refcocos", "region", import_refcocos, "RefCOCOs JSON: phrases with boxes"},
      {"jsonl", "", import_jsonl, "one JSON object a line, described in data/import/JSONL.md"}};
  return kFormats;
}

ImportReport import_dataset(const ImportFormat& format, const ImportOptions& options, const std::string& folder,
                            const std::string& task, const std::string& source) {
  check<ConfigError>(!options.files.empty(), "import ", format.name, ": no annotation file was named");
  for (const std::string& file : options.files) check<IoError>(fs::is_regular_file(file), file, ": no such file");
  StagedDataset staged(folder, task.empty() ? format.task : task, source);
  SampleSink sink(options, staged.writer());
  format.run(sink);
  check<DataError>(sink.report().written > 0, "no sample was left of ", options.files[0], ":\n", sink.report().text());
  staged.publish();
  return sink.report();
}

}  // namespace tpo
