// The project's own line format, described in JSONL.md. Unknown fields are errors, so that a typing error cannot pass.
#include <cmath>
#include <optional>

#include "core/error.h"
#include "data/import/importer.h"
#include "data/import/json.h"

namespace tpo {

namespace {

int index_of(const Json& value, int64_t count, const char* what) {
  const int64_t i = value.integer();
  if (i < 0 || i >= count) value.fail(cat(i, " is not the number of a ", what, "; the record has ", count));
  return static_cast<int>(i);
}

int optional_int(const Json& object, const char* key) {
  const auto value = object.find(key);
  if (!value) return 0;
  const int64_t i = value->integer();
  if (i < 0 || i > 1 << 30) value->fail(cat(i, " must not be negative"));
  return static_cast<int>(i);
}

void read_media(const Json& list, Draft& draft) {
  for (size_t i = 0; i < list.size(); ++i) {
    const Json item = list.at(i);
    item.allow_only({"image", "frames", "fps", "width", "height"});
    MediaRef ref{.width = optional_int(item, "width"), .height = optional_int(item, "height")};
    const auto image = item.find("image"), frames = item.find("frames");
    if (image.has_value() == frames.has_value()) item.fail("must have either image or frames");
    if (image) ref.files = {image->text()};
    if (frames && frames->is(Json::Kind::kString)) ref.files = {frames->text()};  // a folder
    if (frames && frames->is(Json::Kind::kList)) {
      for (size_t k = 0; k < frames->size(); ++k) ref.files.push_back(frames->at(k).text());
    }
    if (ref.files.empty()) frames->fail("must be a folder or a list of .jpg files");
    ref.clip = frames.has_value();
    if (const auto fps = item.find("fps")) {
      ref.fps = fps->number();
      if (!ref.clip || !(ref.fps > 0)) fps->fail("must be positive and stand beside frames");
    }
    draft.media.push_back(std::move(ref));
  }
}

// `media` is the number of media of the record.
data::Box read_box(const Json& item, int64_t media) {
  item.allow_only({"box", "phrase", "media", "frame"});
  const auto v = item.at("box").numbers(4);
  data::Box box;
  box.set_x1(static_cast<float>(v[0]));
  box.set_y1(static_cast<float>(v[1]));
  box.set_x2(static_cast<float>(v[2]));
  box.set_y2(static_cast<float>(v[3]));
  if (const auto phrase = item.find("phrase")) box.set_phrase(phrase->text());
  if (const auto m = item.find("media")) box.set_media(index_of(*m, media, "media"));
  box.set_frame(optional_int(item, "frame"));
  return box;
}

// COCO's text form of run lengths: 5 bits a character from '0', sign-extended, differences to the run before the last.
std::vector<uint32_t> decode_counts(const Json& value) {
  const std::string text = value.text();
  std::vector<int64_t> runs;
  for (size_t at = 0; at < text.size();) {
    int64_t x = 0;
    int shift = 0;
    for (bool more = true; more; shift += 5) {
      const int c = at < text.size() ? text[at++] - 48 : -1;
      if (c < 0 || c > 63 || shift > 30) value.fail("is not a COCO run-length text");
      x |= static_cast<int64_t>(c & 31) << shift;
      more = (c & 32) != 0;
      if (!more && (c & 16) != 0) x -= int64_t{1} << (shift + 5);
    }
    if (runs.size() > 2) x += runs[runs.size() - 2];
    if (x < 0 || x > UINT32_MAX) value.fail("is not a COCO run-length text");
    runs.push_back(x);
  }
  return {runs.begin(), runs.end()};
}

data::Mask read_mask(const Json& item, int64_t media) {
  item.allow_only({"size", "counts", "media", "frame"});
  const auto size = item.at("size").numbers(2);
  for (double s : size) {
    if (s < 1 || s > 1 << 20 || std::floor(s) != s) item.at("size").fail("must be [height, width] in whole pixels");
  }
  data::Mask mask;
  mask.set_height(static_cast<int>(size[0]));
  mask.set_width(static_cast<int>(size[1]));
  const Json counts = item.at("counts");
  if (counts.is(Json::Kind::kString)) {
    for (uint32_t run : decode_counts(counts)) mask.add_counts(run);
  } else {
    for (size_t i = 0; i < counts.size(); ++i) {
      const int64_t run = counts.at(i).integer();
      if (run < 0 || run > UINT32_MAX) counts.at(i).fail("must not be negative");
      mask.add_counts(static_cast<uint32_t>(run));
    }
  }
  if (const auto m = item.find("media")) mask.set_media(index_of(*m, media, "media"));
  mask.set_frame(optional_int(item, "frame"));
  return mask;
}

data::Span read_span(const Json& item, int64_t media) {
  item.allow_only({"start", "end", "media", "saliency"});
  data::Span span;
  const double start = item.at("start").number(), end = item.at("end").number();
  if (!(start >= 0 && start <= end))
    item.fail(cat("start ", start, " and end ", end, " must be 0 <= start <= end, in seconds"));
  span.set_start_s(static_cast<float>(start));
  span.set_end_s(static_cast<float>(end));
  if (const auto m = item.find("media")) span.set_media(index_of(*m, media, "media"));
  if (const auto s = item.find("saliency")) span.set_saliency(static_cast<float>(s->number()));
  return span;
}

data::Track read_track(const Json& item, int64_t media) {
  item.allow_only({"phrase", "boxes", "masks"});
  data::Track track;
  if (const auto phrase = item.find("phrase")) track.set_phrase(phrase->text());
  if (const auto boxes = item.find("boxes")) {
    for (size_t i = 0; i < boxes->size(); ++i) *track.add_boxes() = read_box(boxes->at(i), media);
  }
  if (const auto masks = item.find("masks")) {
    for (size_t i = 0; i < masks->size(); ++i) *track.add_masks() = read_mask(masks->at(i), media);
  }
  if (track.boxes_size() + track.masks_size() == 0) item.fail("must have boxes or masks");
  return track;
}

void read_turns(const Json& list, data::Sample& sample) {
  int next_box = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    const Json item = list.at(i);
    item.allow_only({"role", "text", "boxes", "spans", "tracks"});
    const Json role = item.at("role");
    const std::string name = role.text();
    if (name != "user" && name != "assistant" && name != "system") role.fail("must be user, assistant or system");
    add_turn(sample,
             name == "user"        ? data::Turn::USER
             : name == "assistant" ? data::Turn::ASSISTANT
                                   : data::Turn::SYSTEM,
             item.at("text").text());
    data::Turn& turn = *sample.mutable_turns(sample.turns_size() - 1);
    if (const auto boxes = item.find("boxes")) {
      for (size_t k = 0; k < boxes->size(); ++k) turn.add_boxes(index_of(boxes->at(k), sample.boxes_size(), "box"));
    } else {
      // Without a list the marks take the boxes in order.
      const int marks = count_marks(turn.text(), "<box>") + count_marks(turn.text(), "<track_box>");
      for (int k = 0; k < marks; ++k) {
        if (next_box >= sample.boxes_size())
          item.fail(cat("has more marks than the record has boxes (", next_box, ")"));
        turn.add_boxes(next_box++);
      }
    }
    if (const auto spans = item.find("spans")) {
      for (size_t k = 0; k < spans->size(); ++k) turn.add_spans(index_of(spans->at(k), sample.spans_size(), "span"));
    }
    if (const auto tracks = item.find("tracks")) {
      for (size_t k = 0; k < tracks->size(); ++k)
        turn.add_tracks(index_of(tracks->at(k), sample.tracks_size(), "track"));
    }
  }
}

void read_line(const Json& line, const std::string& file, SampleSink& sink) {
  line.allow_only({"id", "media", "units", "turns", "boxes", "spans", "masks", "tracks", "meta"});
  Draft draft;
  data::Sample& sample = draft.sample;
  if (const auto id = line.find("id")) {
    sample.set_id(id->text());
    if (sample.id().empty()) id->fail("is empty");
  }
  if (const auto media = line.find("media")) read_media(*media, draft);
  const auto media = static_cast<int64_t>(draft.media.size());
  const auto each = [&](const char* key, auto&& read) {
    const auto list = line.find(key);
    for (size_t i = 0; list && i < list->size(); ++i) read(list->at(i));
  };
  each("boxes", [&](const Json& item) { *sample.add_boxes() = read_box(item, media); });
  each("spans", [&](const Json& item) { *sample.add_spans() = read_span(item, media); });
  each("masks", [&](const Json& item) { *sample.add_masks() = read_mask(item, media); });
  each("tracks", [&](const Json& item) { *sample.add_tracks() = read_track(item, media); });
  if (const auto units = line.find("units")) {
    if (units->text() != "pixel" && units->text() != "fraction") units->fail("must be pixel or fraction");
    draft.units = units->text() == "pixel" ? Draft::Units::kPixel : Draft::Units::kFraction;
  } else if (sample.boxes_size() + sample.tracks_size() > 0) {
    line.fail("field 'units' (pixel or fraction) is required beside boxes and tracks");
  }
  read_turns(line.at("turns"), sample);
  if (const auto meta = line.find("meta")) {
    for (const std::string& key : meta->keys()) (*sample.mutable_meta())[key] = meta->at(key).text();
  }
  sink.add(file, line.where(), std::move(draft));
}

}  // namespace

void import_jsonl(SampleSink& sink) {
  for (const std::string& file : sink.options().files) {
    for_each_json_line(file, [&](const std::string& where, const std::string& text) {
      sink.record(where, [&] { read_line(Json::parse(text, where), file, sink); });
    });
  }
}

}  // namespace tpo
