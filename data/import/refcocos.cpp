// RefCOCOs: one phrase and one box (x1, y1, x2, y2 in pixels) a record; a null box says that no such object is there.
#include "core/error.h"
#include "data/import/importer.h"
#include "data/import/json.h"

namespace tpo {

namespace {

void read_record(const Json& record, const std::string& file, SampleSink& sink) {
  const std::string phrase = record.at("normal_caption").text();
  if (phrase.empty()) record.at("normal_caption").fail("is empty");
  const auto solution = record.find("solution");
  if (!solution) return sink.skip(record.where(), "no such object in the picture (solution is null)");
  const auto v = solution->numbers(4);

  Draft draft{.units = Draft::Units::kPixel};
  draft.media.push_back({.files = {record.at("image").text()},
                         .width = static_cast<int>(record.at("width").integer()),
                         .height = static_cast<int>(record.at("height").integer())});
  if (const auto id = record.find("annotation_id")) {
    draft.sample.set_id(id->text());
    if (draft.sample.id().empty()) id->fail("is empty");
  }
  data::Box& box = *draft.sample.add_boxes();
  box.set_x1(static_cast<float>(v[0]));
  box.set_y1(static_cast<float>(v[1]));
  box.set_x2(static_cast<float>(v[2]));
  box.set_y2(static_cast<float>(v[3]));
  box.set_phrase(phrase);
  add_region_turns(draft.sample, 0);
  sink.add(file, record.where(), std::move(draft));
}

}  // namespace

void import_refcocos(SampleSink& sink) {
  for (const std::string& file : sink.options().files) {
    const Json list = Json::parse_file(file);
    for (size_t i = 0; i < list.size(); ++i) {
      const Json record = list.record(i);
      sink.record(record.where(), [&] { read_record(record, file, sink); });
    }
  }
}

}  // namespace tpo
