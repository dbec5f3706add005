// Conversations about pictures in three JSON shells, told apart by the field that holds the turns:
//   conversations [{from, value}]  LLaVA and its forks       QA [{i, q, a}]  VideoChat, VideoChat2
//   messages [{role, content}]     LLaMA-Factory, with images / videos lists
#include <filesystem>

#include "core/error.h"
#include "data/import/importer.h"
#include "data/import/json.h"

namespace tpo {

namespace {

using Role = data::Turn::Role;

// A string, or a list of strings.
std::vector<std::string> one_or_many(const Json& value) {
  if (value.is(Json::Kind::kString)) return {value.text()};
  if (!value.is(Json::Kind::kList)) value.fail("must be a string or a list of strings");
  std::vector<std::string> out;
  for (size_t i = 0; i < value.size(); ++i) out.push_back(value.at(i).text());
  return out;
}

Role role_of(const Json& value) {
  const std::string name = value.text();
  if (name == "human" || name == "user") return data::Turn::USER;
  if (name == "gpt" || name == "assistant") return data::Turn::ASSISTANT;
  if (name == "system") return data::Turn::SYSTEM;
  value.fail("'" + name + "' must be human, gpt or system (user and assistant are understood, too)");
}

void read_turns(const Json& list, const char* role_key, const char* text_key, data::Sample& sample) {
  for (size_t i = 0; i < list.size(); ++i) {
    const Json turn = list.at(i);
    add_turn(sample, role_of(turn.at(role_key)), turn.at(text_key).text());
  }
}

void read_questions(const Json& list, data::Sample& sample) {
  for (size_t i = 0; i < list.size(); ++i) {
    const Json qa = list.at(i);
    const auto instruction = qa.find("i");
    // The format takes the instruction of the first pair only.
    if (i == 0 && instruction && !instruction->text().empty())
      add_turn(sample, data::Turn::SYSTEM, instruction->text());
    add_turn(sample, data::Turn::USER, qa.at("q").text());
    add_turn(sample, data::Turn::ASSISTANT, qa.at("a").text());
  }
}

bool is_folder(const std::string& name, const SampleSink& sink, const std::string& file) {
  const std::string& root = sink.options().image_root;
  const auto base = root.empty() ? std::filesystem::path(file).parent_path() : std::filesystem::path(root);
  return std::filesystem::is_directory(base / name);
}

// False: the record needs a video reader and was skipped.
bool read_media(const Json& record, const std::string& file, SampleSink& sink, Draft& draft) {
  for (const char* key : {"image", "images"}) {
    if (const auto value = record.find(key)) {
      for (const std::string& name : one_or_many(*value)) draft.media.push_back({.files = {name}});
    }
  }
  for (const char* key : {"video", "videos"}) {
    const auto value = record.find(key);
    if (!value) continue;
    const auto names = one_or_many(*value);
    // `video` as a list is the list of its frames; `videos` lists clips, each a folder of frames.
    const bool frames = std::string(key) == "video" && value->is(Json::Kind::kList);
    if (frames) {
      draft.media.push_back({.files = names, .clip = true});
      continue;
    }
    for (const std::string& name : names) {
      if (!is_folder(name, sink, file) || record.find("start") || record.find("end")) {
        sink.skip(cat(record.where(), " (", name, ")"),
                  "a video file; give its frames as a folder or list of .jpg files");
        return false;
      }
      draft.media.push_back({.files = {name}, .clip = true});
    }
  }
  return true;
}

void read_record(const Json& record, const std::string& file, SampleSink& sink) {
  Draft draft;
  if (const auto id = record.find("id")) {
    // Some forks write numbers.
    draft.sample.set_id(id->is(Json::Kind::kNumber) ? std::to_string(id->integer()) : id->text());
    if (draft.sample.id().empty()) id->fail("is empty");
  }
  if (!read_media(record, file, sink, draft)) return;
  if (const auto turns = record.find("conversations")) {
    read_turns(*turns, "from", "value", draft.sample);
  } else if (const auto pairs = record.find("QA")) {
    read_questions(*pairs, draft.sample);
  } else if (const auto messages = record.find("messages")) {
    read_turns(*messages, "role", "content", draft.sample);
  } else {
    record.fail("has none of the fields conversations, QA, messages");
  }
  sink.add(file, record.where(), std::move(draft));
}

}  // namespace

void import_llava(SampleSink& sink) {
  for (const std::string& file : sink.options().files) {
    const Json list = Json::parse_file(file);
    for (size_t i = 0; i < list.size(); ++i) {
      const Json record = list.record(i);
      sink.record(record.where(), [&] { read_record(record, file, sink); });
    }
  }
}

}  // namespace tpo
