#include <chrono>
#include <fstream>
#include <iostream>

#include "core/error.h"
#include "data/bytes.h"
#include "data/synth/generate.h"
#include "data/tokenizer/sentencepiece.h"
#include "launcher/commands/args.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/data_verbs.h"
#include "launcher/config.h"
#include "launcher/exit_codes.h"

namespace tpo {

namespace {

struct Verb {
  const char* name;
  int (*run)(std::span<const std::string>);
  const char* what;
};
constexpr Verb kVerbs[] = {{"synth", data_synth, "write datasets of the generated world and its text"},
                           {"import", data_import, "make a dataset of annotations and pictures"},
                           {"tokenizer", data_tokenizer, "train a SentencePiece model on text files"},
                           {"tokenize", data_tokenize, "print the ids of lines of text"},
                           {"index", data_index, "write the length indices that training needs"},
                           {"inspect", data_inspect, "print and draw samples"},
                           {"verify", data_verify, "check every byte and record of datasets"}};

void train_tokenizer(const std::vector<std::string>& lines, int64_t vocab, const std::string& model,
                     const std::string& path) {
  const std::string bytes = train_sentencepiece(lines, {static_cast<int32_t>(vocab), model});
  replace_file(path, std::as_bytes(std::span(bytes.data(), bytes.size())));
  std::cout << path << ": " << vocab << " pieces from " << lines.size() << " lines\n";
}

SynthOptions synth_options(const Args& args) {
  SynthOptions o;
  o.seed = static_cast<uint64_t>(args.integer("seed", 0, INT64_MAX));
  o.format = args.choice("format", {"jpeg", "png"}) == 0 ? PictureFormat::kJpeg : PictureFormat::kPng;
  WorldConfig& w = o.world;
  const auto whole = [&](const char* flag, int& value) {
    if (args.given(flag)) value = static_cast<int>(args.integer(flag, 0, 1 << 20));
  };
  whole("size", w.picture_px);
  whole("turns", w.turns);
  whole("region_questions", w.region_questions);
  whole("grid", w.grid);
  whole("colours", w.colours);
  whole("shapes", w.shapes);
  whole("sizes", w.sizes);
  whole("min_objects", w.min_objects);
  whole("max_objects", w.max_objects);
  if (args.given("unique"))
    w.unique =
        args.choice("unique", {"colour", "shape"}) == 0 ? WorldConfig::Unique::kColour : WorldConfig::Unique::kShape;
  w.validate();
  return o;
}

// "train=8000" -> {"train", 8000}.
std::pair<std::string, int64_t> parse_split(const std::string& text) {
  const size_t equals = text.find('=');
  const std::string count = equals == std::string::npos ? "" : text.substr(equals + 1);
  const bool digits = !count.empty() && count.size() < 12 && count.find_first_not_of("0123456789") == std::string::npos;
  check<ConfigError>(digits && equals > 0 && std::stoll(count) > 0, "data synth: --split ", text,
                     " must be name=count, for instance train=8000");
  return {text.substr(0, equals), std::stoll(count)};
}

const CommandHelp kSynthHelp{
    "data synth",
    "Writes region and conversation datasets of the generated world for every split, its text and a tokenizer.",
    "",
    "tpo_dist data synth --out data/world --split train=8000 --split heldout=500 --seed 1",
    {{"out", "folder that receives <dataset>-<split>, text.txt and tokenizer.model", "", Flag::Kind::kText},
     {"split", "name=scenes of one split; splits never share scenes", "train=8000 and heldout=500", Flag::Kind::kList},
     {"seed", "whole number; same seed, same bytes", "1", Flag::Kind::kText},
     {"format", "jpeg (quality 92) or png", "jpeg", Flag::Kind::kText},
     {"vocab", "pieces of the tokenizer; 0: do not train one", "400", Flag::Kind::kText},
     {"size", "side of the pictures in pixels, 16 to 1024", "64", Flag::Kind::kText},
     {"turns", "question-answer pairs of a sample, at most", "4", Flag::Kind::kText},
     {"region_questions", "of these in region samples are plain questions", "0", Flag::Kind::kText},
     {"grid", "cells a side, each with one object at most; 0: objects stand anywhere", "0", Flag::Kind::kText},
     {"colours", "how many colours, 2 to 8", "6", Flag::Kind::kText},
     {"shapes", "how many shapes, 2 to 5", "3", Flag::Kind::kText},
     {"sizes", "1 or 2 (small and large)", "2", Flag::Kind::kText},
     {"dataset", "region (boxes), conversation (questions) or caption (what is where)", "region and conversation",
      Flag::Kind::kList},
     {"unique", "warm-up world: no two objects share their colour, or shape; min_objects may be 1", "",
      Flag::Kind::kText},
     {"min_objects", "objects of a scene, at least; 3 or more", "3", Flag::Kind::kText},
     {"max_objects", "objects of a scene, at most; up to 8", "6", Flag::Kind::kText}}};

const CommandHelp kTokenizerHelp{
    "data tokenizer",
    "Trains a SentencePiece model on text files, one sentence a line; the same text gives the same model.",
    "",
    "tpo_dist data tokenizer --text data/world/text.txt --vocab 400 --out data/world/tokenizer.model",
    {{"text", "text file", "", Flag::Kind::kList},
     {"vocab", "pieces, 256 bytes and 3 marks included", "400", Flag::Kind::kText},
     {"model", "bpe or unigram", "bpe", Flag::Kind::kText},
     {"out", "model file to write", "", Flag::Kind::kText}}};

}  // namespace

std::function<void(int64_t, int64_t)> progress_printer(const std::string& what) {
  using Clock = std::chrono::steady_clock;
  return [what, last = Clock::now()](int64_t done, int64_t total) mutable {
    const auto now = Clock::now();
    if (done != total && now - last < std::chrono::seconds(1)) return;
    last = now;
    std::cerr << what << ": " << done << " of " << total << "\n";
  };
}

int data_synth(std::span<const std::string> words) {
  const Args args(kSynthHelp, words);
  if (args.help()) {
    std::cout << args.usage();
    return kExitDone;
  }
  args.words(0);
  const std::string out = args.required("out");
  const SynthOptions options = synth_options(args);
  const int64_t vocab = args.integer("vocab", 0, 65536);
  std::vector<std::string> splits = args.list("split");
  if (splits.empty()) splits = {"train=8000", "heldout=500"};
  std::string source = "data synth";
  for (const std::string& word : words) source += " " + word;

  std::vector<std::string> datasets = args.list("dataset");
  if (datasets.empty()) datasets = {"region", "conversation"};
  for (const std::string& split : splits) parse_split(split);  // all errors before the first write
  for (const std::string& dataset : datasets) {
    const auto& known = world_datasets();
    check<ConfigError>(std::find(known.begin(), known.end(), dataset) != known.end(), "data synth: --dataset ", dataset,
                       " must be region, conversation or caption");
  }
  for (const std::string& split : splits) {
    const auto [name, count] = parse_split(split);
    for (const std::string& dataset : datasets) {
      const std::string folder = cat(out, "/", dataset, "-", name);
      write_world_dataset(options, name, dataset, count, folder, source, progress_printer(folder));
      std::cout << folder << ": " << count << " samples\n";
    }
  }
  const auto lines = world_text(options);
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  replace_file(out + "/text.txt", std::as_bytes(std::span(text.data(), text.size())));
  if (vocab > 0) train_tokenizer(lines, vocab, "bpe", out + "/tokenizer.model");
  return kExitDone;
}

int data_tokenizer(std::span<const std::string> words) {
  const Args args(kTokenizerHelp, words);
  if (args.help()) {
    std::cout << args.usage();
    return kExitDone;
  }
  args.words(0);
  args.required("out");
  const std::vector<std::string> models{"bpe", "unigram"};
  const std::string model = models[args.choice("model", models)];
  check<ConfigError>(!args.list("text").empty(), "data tokenizer: --text is required");
  std::vector<std::string> lines;
  for (const std::string& path : args.list("text")) {
    std::ifstream in(path);
    check<IoError>(in.good(), path, ": cannot be opened for reading");
    for (std::string line; std::getline(in, line);) {
      if (!line.empty()) lines.push_back(line);
    }
  }
  train_tokenizer(lines, args.integer("vocab", 260, 1 << 20), model, args.text("out"));
  return kExitDone;
}

int run_data(std::span<const std::string> args) {
  std::string usage = "tpo_dist data <verb> [--help]\n", legal;
  std::vector<std::string> names;
  for (const Verb& verb : kVerbs) {
    usage += cat("  ", verb.name, std::string(12 - std::string(verb.name).size(), ' '), verb.what, "\n");
    legal += std::string(legal.empty() ? "" : ", ") + verb.name;
    names.emplace_back(verb.name);
  }
  check<ConfigError>(!args.empty(), "data: a verb is missing; legal are ", legal);
  if (args[0] == "--help" || args[0] == "help") {
    std::cout << usage << "Example:\n  " << kSynthHelp.example << "\n";
    return kExitDone;
  }
  for (const Verb& verb : kVerbs) {
    if (args[0] == verb.name) return verb.run(args.subspan(1));
  }
  const std::string near = nearest(args[0], names);
  throw ConfigError(
      cat("data: unknown verb ", args[0], near.empty() ? "" : "; did you mean " + near + "?", "; legal are ", legal));
}

}  // namespace tpo
