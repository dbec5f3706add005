#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

#include "data/decode/image.h"
#include "launcher/commands/args.h"
#include "launcher/commands/checkpoint_model.h"
#include "launcher/commands/commands.h"
#include "launcher/evaluator.h"
#include "launcher/exit_codes.h"
#include "launcher/run_files.h"

namespace tpo {

namespace {

const CommandHelp kHelp{
    "predict",
    "Asks a checkpoint about one picture, squeezed or in tiles as the run had them; prints the text and every box, and "
    "draws the boxes.",
    "",
    "tpo_dist predict --checkpoint runs/quickstart --image scene.png --prompt \"Where is the small red circle?\" --out "
    "answer.png",
    {{"checkpoint", "checkpoint folder, or a run folder (its newest checkpoint)", "", Flag::Kind::kText},
     {"image", "JPEG or PNG file; leave it away for a text-only question", "", Flag::Kind::kText},
     {"prompt", "the question; <track_box> in it stands for --box", "", Flag::Kind::kText},
     {"box", "x1,y1,x2,y2 in fractions of the picture, for <track_box>", "", Flag::Kind::kText},
     {"out", "PNG file for the picture with the answer's boxes", "", Flag::Kind::kText},
     {"max_new_tokens", "longest answer in tokens; the run's eval.max_new_tokens if left away", "", Flag::Kind::kText},
     {"set", "override of the run's configuration, path=value; eval.generation.* says how the answer is written", "",
      Flag::Kind::kList}}};

void add_picture(const std::string& path, RawSample& raw) {
  std::ifstream in(path, std::ios::binary);
  check<DataError>(in.good(), "--image ", path, ": the file cannot be opened");
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  const auto span = std::as_bytes(std::span(bytes.data(), bytes.size()));
  const ImageSize size = image_size(span, path);
  data::Media* media = raw.sample.add_media();
  media->set_kind(bytes[0] == '\x89' ? data::Media::PNG : data::Media::JPEG);
  media->set_width(size.width);
  media->set_height(size.height);
  media->add_frame_bytes(static_cast<uint32_t>(bytes.size()));
  media->set_source(path);
  raw.media.resize(span.size());
  std::copy(span.begin(), span.end(), raw.media.data());
}

void add_box(const std::string& text, data::Sample& sample, data::Turn& turn) {
  Box b;
  char comma[3];
  const int n =
      std::sscanf(text.c_str(), "%f%c%f%c%f%c%f", &b[0], &comma[0], &b[1], &comma[1], &b[2], &comma[2], &b[3]);
  check<ConfigError>(n == 7 && b[0] >= 0 && b[0] <= b[2] && b[2] <= 1 && b[1] >= 0 && b[1] <= b[3] && b[3] <= 1,
                     "--box ", text, ": write x1,y1,x2,y2 with 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1");
  data::Box* box = sample.add_boxes();
  box->set_x1(b[0]);
  box->set_y1(b[1]);
  box->set_x2(b[2]);
  box->set_y2(b[3]);
  turn.add_boxes(0);
}

}  // namespace

int run_predict(std::span<const std::string> words) {
  const Args args(kHelp, words);
  if (args.help()) {
    std::cout << args.usage();
    return kExitDone;
  }
  args.words(0);
  const std::string prompt = args.required("prompt");
  check<ConfigError>(args.given("image") || !args.given("out"), "--out needs --image");
  RawSample raw;
  raw.sample.set_id("predict");
  if (args.given("image")) add_picture(args.required("image"), raw);
  data::Turn* turn = raw.sample.add_turns();
  turn->set_role(data::Turn::USER);
  turn->set_text((args.given("image") ? "<image>" : "") + prompt);
  if (args.given("box")) add_box(args.text("box"), raw.sample, *turn);

  const auto alone = make_single();
  const CheckpointModel loaded(args.required("checkpoint"), args.list("set"), *alone);
  GenerateOptions options = make_generate_options(loaded.config(), loaded.tokenizer());
  if (args.given("max_new_tokens")) options.max_new_tokens = args.integer("max_new_tokens", 1, 65536);
  const Batch batch =
      make_prompt(raw, loaded.templates().encode_prompt(raw.sample, 0), make_collate_options(loaded.config()));
  const Generation answer = generate(loaded.model(), batch, options);

  std::cout << decode_written(loaded.tokenizer(), answer.tokens) << "\n";
  std::vector<Box> boxes;
  for (const auto& g : answer.boxes) {
    boxes.push_back(g.box);
    std::cout << "box " << g.box[0] << ' ' << g.box[1] << ' ' << g.box[2] << ' ' << g.box[3];
    if (raw.sample.media_size() > 0) {
      const auto w = static_cast<float>(raw.sample.media(0).width()),
                 h = static_cast<float>(raw.sample.media(0).height());
      std::cout << "  pixels " << g.box[0] * w << ' ' << g.box[1] * h << ' ' << g.box[2] * w << ' ' << g.box[3] * h;
    }
    std::cout << "\n";
  }
  if (!answer.stopped) std::cout << "(cut after " << options.max_new_tokens << " tokens; raise --max_new_tokens)\n";
  if (args.given("out")) {
    write_bytes(args.required("out"), draw_boxes(raw, {}, boxes, prompt));
    std::cout << "drawn to " << args.text("out") << "\n";
  }
  return kExitDone;
}

}  // namespace tpo
