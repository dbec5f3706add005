// tpo_dist data import: annotation files and pictures to a dataset folder.
#include <iostream>

#include "core/error.h"
#include "data/import/importer.h"
#include "launcher/commands/args.h"
#include "launcher/commands/data_verbs.h"
#include "launcher/exit_codes.h"

namespace tpo {

namespace {

CommandHelp import_help() {
  std::string formats;
  for (const ImportFormat& f : import_formats()) formats += cat("\n  ", f.name, ": ", f.what);
  return {
      "data import",
      "Makes a dataset folder of annotation files and the pictures they name. Formats:" + formats,
      "<format> <annotation file> ...",
      "tpo_dist data import refcocos refcocos_test.json --image_root coco --out data/refcocos",
      {{"out", "dataset folder to make; it must not exist and appears only when all is read", "", Flag::Kind::kText},
       {"task", "conversation, region, temporal or mask; needed for jsonl only", "", Flag::Kind::kText},
       {"image_root", "folder that picture names start from", "the annotation file's folder", Flag::Kind::kText},
       {"image_index", "JSON object {picture id or name: path beside the index file}", "", Flag::Kind::kText},
       {"search_names", "find pictures by file name anywhere below the root", "", Flag::Kind::kSwitch},
       {"on_error", "stop, or skip: count and list bad records and go on", "stop", Flag::Kind::kText},
       {"outside_box", "a box that leaves its picture: error, clip, or skip the record", "error", Flag::Kind::kText},
       {"tolerance", "pixels a box may leave the picture and is moved back in silence", "1", Flag::Kind::kText},
       {"occurrence", "coco-instances: once (categories that occur once in a picture) or every object", "once",
        Flag::Kind::kText},
       {"captions", "coco-captions: first of a picture, or all", "first", Flag::Kind::kText},
       {"boxes_per_sample", "coco-instances: phrases asked in one sample, at most", "8", Flag::Kind::kText},
       {"frame_fps", "frames per second of clips given as frames; 0: unknown", "0", Flag::Kind::kText}}};
}

const ImportFormat& format_named(const std::string& name) {
  std::string legal;
  for (const ImportFormat& f : import_formats()) {
    if (name == f.name) return f;
    legal += std::string(legal.empty() ? "" : ", ") + f.name;
  }
  throw ConfigError(cat("data import: unknown format ", name, "; legal are ", legal));
}

}  // namespace

int data_import(std::span<const std::string> words) {
  const Args args(import_help(), words);
  if (args.help()) {
    std::cout << args.usage();
    return kExitDone;
  }
  check<ConfigError>(args.words().size() >= 2, "data import: name a format and one or more annotation files");
  const ImportFormat& format = format_named(args.words()[0]);
  ImportOptions o;
  o.files.assign(args.words().begin() + 1, args.words().end());
  if (args.given("image_root")) o.image_root = args.text("image_root");
  o.image_index = args.text("image_index");
  o.search_names = args.is_on("search_names");
  o.on_error = static_cast<ImportOptions::OnError>(args.choice("on_error", {"stop", "skip"}));
  o.outside_box = static_cast<ImportOptions::OutsideBox>(args.choice("outside_box", {"error", "clip", "skip"}));
  o.tolerance_px = args.real("tolerance", 0, 1000);
  o.occurrence = static_cast<ImportOptions::Occurrence>(args.choice("occurrence", {"once", "every"}));
  o.captions = static_cast<ImportOptions::Captions>(args.choice("captions", {"first", "all"}));
  o.boxes_per_sample = static_cast<int>(args.integer("boxes_per_sample", 1, 1000));
  o.frame_fps = args.real("frame_fps", 0, 1000);
  const std::string task = args.text("task");
  check<ConfigError>(*format.task != 0 || !task.empty(), "data import ", format.name,
                     ": --task is required: conversation, region, temporal or mask");
  std::string source = "data import";
  for (const std::string& word : words) source += " " + word;
  const ImportReport report = import_dataset(format, o, args.required("out"), task, source);
  std::cout << report.text() << args.text("out") << ": " << report.written << " samples\n";
  return kExitDone;
}

}  // namespace tpo
