#pragma once
// From public annotation formats to samples. One function per format reads records and hands drafts to a SampleSink,
// which finds and decodes the pictures, checks boxes, ids and texts, and writes. Every complaint names file and record.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/dataset.h"
#include "data/import/media.h"

namespace tpo {

struct ImportOptions {
  enum class OnError { kStop, kSkip };             // kSkip: count and list the record, go on
  enum class OutsideBox { kError, kClip, kSkip };  // a box that leaves the picture by more than tolerance_px
  enum class Occurrence { kOnce, kEvery };         // coco: categories that occur once in the picture, or every object
  enum class Captions { kFirst, kAll };            // coco: first caption of a picture, or one sample per caption

  std::vector<std::string> files;  // annotation files, read in order
  std::string image_root;          // folder that picture paths start from; empty: the annotation file's folder
  std::string image_index;         // JSON object {picture id or path: path beside the index file}; empty: none
  bool search_names = false;       // find a picture by its file name anywhere below image_root
  OnError on_error = OnError::kStop;
  OutsideBox outside_box = OutsideBox::kError;
  double tolerance_px = 1;  // boxes that leave the picture by at most this are moved onto its border
  Occurrence occurrence = Occurrence::kOnce;
  Captions captions = Captions::kFirst;
  int boxes_per_sample = 8;  // coco: phrases of one picture asked in one sample, at most
  double frame_fps = 0;      // frames per second of clips given as frames, when the record does not say
};

struct ImportReport {
  int64_t records = 0, written = 0;
  std::map<std::string, int64_t> skipped;  // reason -> records
  std::vector<std::string> messages;       // "file record: reason", the first kMessages of them
  static constexpr size_t kMessages = 200;
  int64_t skipped_total() const;
  std::string text() const;  // lines for the user
};

// One picture, or the frames of one clip, as the annotation names them.
struct MediaRef {
  std::vector<std::string> files{};
  bool clip = false;
  double fps = 0;
  int width = 0, height = 0;  // as the annotation claims; 0: it does not
};

struct Draft {
  enum class Units { kFraction, kPixel };
  data::Sample
      sample{};  // id empty: made from the file's name and the record's number; media are filled in by the sink
  std::vector<MediaRef> media{};
  Units units = Units::kFraction;  // of sample.boxes and of boxes in sample.tracks
};

class SampleSink {
 public:
  SampleSink(ImportOptions options, DatasetWriter& writer);
  const ImportOptions& options() const { return options_; }

  // Runs `fn` for one record. Its errors get `where` in front if they lack it; they leave, or are counted
  // (OnError::kSkip).
  void record(const std::string& where, const std::function<void()>& fn);
  // Not an error: the format says there is nothing to learn here, or this importer does not read it.
  void skip(const std::string& where, const std::string& reason);
  // Completes, checks and writes. `file` is the annotation file. Throws DataError; only to be called inside record().
  void add(const std::string& file, const std::string& where, Draft draft);

  // Boxes: moves a pixel box onto the border within the tolerance and makes it a fraction of the picture. False: to be
  // left out (OutsideBox::kSkip). Throws DataError for a box without area, out of order, not finite, or outside.
  bool fit_box(data::Box& box, double width, double height, const std::string& where) const;

  const ImportReport& report() const { return report_; }

 private:
  void fail(const std::string& where, const std::string& message, const std::string& reason);
  void fill_media(const std::string& file, const std::string& where, Draft& draft, std::vector<std::byte>& bytes);
  void fit_boxes(const std::string& where, Draft& draft) const;
  void claim_id(const std::string& where, const std::string& id);

  ImportOptions options_;
  DatasetWriter& writer_;
  MediaFinder finder_;
  ImportReport report_;
  std::unordered_map<uint64_t, std::string> seen_;  // hash of an id -> where it was first used
  std::shared_ptr<const PictureFile> last_;         // several records often use one picture in a row
};

// "What is it?" -> a user turn, "A cup." -> an assistant turn.
void add_turn(data::Sample& sample, data::Turn::Role role, const std::string& text);
// Question and answer for box number `box` of the sample; the prompt is picked by a hash of id and phrase.
void add_region_turns(data::Sample& sample, int box);
// How often `mark` stands in the text.
int count_marks(const std::string& text, const std::string& mark);
// Puts the picture mark in front of the first question when no question has one; else the marks must be as many as the
// media.
void place_media_marks(Draft& draft, const std::string& where);

// The formats. Each reads options().files and calls sink.record / skip / add.
void import_llava(SampleSink& sink);           // conversations | QA | messages lists, told apart by their fields
void import_coco_instances(SampleSink& sink);  // category names as phrases
void import_coco_captions(SampleSink& sink);
void import_refcocos(SampleSink& sink);
void import_jsonl(SampleSink& sink);  // JSONL.md

struct ImportFormat {
  const char* name;
  const char* task;  // of the dataset; "" when the user must say
  void (*run)(SampleSink&);
  const char* what;
};
const std::vector<ImportFormat>& import_formats();

// The whole: reads, checks, and publishes `folder` at the end (StagedDataset). Throws before anything is published;
// DataError when no sample was left.
ImportReport import_dataset(const ImportFormat& format, const ImportOptions& options, const std::string& folder,
                            const std::string& task, const std::string& source);

}  // namespace tpo
