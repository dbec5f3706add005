// COCO object files: instances (boxes of named categories) and captions. Boxes are x, y, width, height in pixels.
#include <map>

#include "core/error.h"
#include "core/rng.h"
#include "data/import/importer.h"
#include "data/import/json.h"

namespace tpo {

namespace {

struct Picture {
  std::string name, where;
  int width = 0, height = 0;
  std::vector<Json> annotations;
};

// The pictures of a file by id, each with its annotations in the file's order.
std::map<int64_t, Picture> read_pictures(const Json& root) {
  std::map<int64_t, Picture> pictures;
  const Json images = root.at("images");
  for (size_t i = 0; i < images.size(); ++i) {
    const Json image = images.at(i);
    const int64_t id = image.at("id").integer();
    Picture p{image.at("file_name").text(), cat(root.where(), " image ", id), 0, 0, {}};
    p.width = static_cast<int>(image.at("width").integer());
    p.height = static_cast<int>(image.at("height").integer());
    if (!pictures.emplace(id, std::move(p)).second) image.fail(cat("id ", id, " occurs twice"));
  }
  const Json annotations = root.at("annotations");
  for (size_t i = 0; i < annotations.size(); ++i) {
    const Json annotation = annotations.at(i);
    const Json id = annotation.at("image_id");
    const auto found = pictures.find(id.integer());
    if (found == pictures.end()) id.fail(cat(id.integer(), " is not among the images"));
    found->second.annotations.push_back(annotation);
  }
  return pictures;
}

std::map<int64_t, std::string> read_categories(const Json& root) {
  std::map<int64_t, std::string> out;
  const Json categories = root.at("categories");
  for (size_t i = 0; i < categories.size(); ++i) {
    out[categories.at(i).at("id").integer()] = categories.at(i).at("name").text();
  }
  return out;
}

struct Instance {
  std::string phrase;
  data::Box box;  // pixels
};

// The objects that may be asked for. Crowds are no objects, but they make their category ambiguous.
std::vector<Instance> instances_of(const Picture& picture, const std::map<int64_t, std::string>& categories,
                                   const SampleSink& sink) {
  std::map<int64_t, int> occurrences;
  for (const Json& a : picture.annotations) ++occurrences[a.at("category_id").integer()];
  const bool once = sink.options().occurrence == ImportOptions::Occurrence::kOnce;
  std::vector<Instance> out;
  for (const Json& a : picture.annotations) {
    const int64_t category = a.at("category_id").integer();
    const auto name = categories.find(category);
    if (name == categories.end()) a.at("category_id").fail(cat(category, " is not among the categories"));
    const auto crowd = a.find("iscrowd");
    if ((crowd && crowd->integer() != 0) || (once && occurrences[category] > 1)) continue;
    const auto v = a.at("bbox").numbers(4);
    Instance instance{(once ? "the " : "a ") + name->second, {}};
    instance.box.set_x1(static_cast<float>(v[0]));
    instance.box.set_y1(static_cast<float>(v[1]));
    instance.box.set_x2(static_cast<float>(v[0] + v[2]));
    instance.box.set_y2(static_cast<float>(v[1] + v[3]));
    instance.box.set_phrase(instance.phrase);
    data::Box probe = instance.box;
    if (sink.fit_box(probe, picture.width, picture.height, a.at("bbox").where())) out.push_back(instance);
  }
  return out;
}

MediaRef media_of(const Picture& picture) {
  return {.files = {picture.name}, .width = picture.width, .height = picture.height};
}

void add_instances(SampleSink& sink, const std::string& file, int64_t id, const Picture& picture,
                   const std::map<int64_t, std::string>& categories) {
  const auto instances = instances_of(picture, categories, sink);
  if (instances.empty()) return sink.skip(picture.where, "no object to ask for");
  const auto per_sample = static_cast<size_t>(sink.options().boxes_per_sample);
  for (size_t begin = 0; begin < instances.size(); begin += per_sample) {
    Draft draft{.media = {media_of(picture)}, .units = Draft::Units::kPixel};
    draft.sample.set_id(cat(id, begin == 0 ? "" : cat("-", begin / per_sample)));
    for (size_t i = begin; i < std::min(begin + per_sample, instances.size()); ++i) {
      *draft.sample.add_boxes() = instances[i].box;
      add_region_turns(draft.sample, static_cast<int>(i - begin));
    }
    sink.add(file, picture.where, std::move(draft));
  }
}

void add_captions(SampleSink& sink, const std::string& file, int64_t id, const Picture& picture) {
  constexpr const char* kPrompts[] = {"Describe the picture in one sentence.", "What does this picture show?",
                                      "Write a short caption for this image.", "Say in one sentence what you see."};
  if (picture.annotations.empty()) return sink.skip(picture.where, "no caption");
  const bool all = sink.options().captions == ImportOptions::Captions::kAll;
  for (size_t i = 0; i < (all ? picture.annotations.size() : 1); ++i) {
    Draft draft{.media = {media_of(picture)}};
    draft.sample.set_id(all ? cat(id, "-", i) : cat(id));
    add_turn(draft.sample, data::Turn::USER, kPrompts[hash_name(draft.sample.id()) % std::size(kPrompts)]);
    add_turn(draft.sample, data::Turn::ASSISTANT, picture.annotations[i].at("caption").text());
    sink.add(file, picture.where, std::move(draft));
  }
}

}  // namespace

void import_coco_instances(SampleSink& sink) {
  for (const std::string& file : sink.options().files) {
    const Json root = Json::parse_file(file);
    const auto categories = read_categories(root);
    for (const auto& entry : read_pictures(root)) {
      sink.record(entry.second.where, [&] { add_instances(sink, file, entry.first, entry.second, categories); });
    }
  }
}

void import_coco_captions(SampleSink& sink) {
  for (const std::string& file : sink.options().files) {
    const Json root = Json::parse_file(file);
    for (const auto& entry : read_pictures(root)) {
      sink.record(entry.second.where, [&] { add_captions(sink, file, entry.first, entry.second); });
    }
  }
}

}  // namespace tpo
