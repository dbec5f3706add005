#include "data/synth/generate.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "data/decode/image.h"
#include "data/staged.h"
#include "data/synth/render.h"
#include "data/synth/text.h"
#include "data/templates.h"

namespace tpo {

namespace {

// A question, its answer, and the box that the answer's <box> mark stands for; -1: none.
struct Pair {
  std::string question, answer;
  int box = -1;
};

// The box of one object with a phrase for it, appended to the sample.
Pair expression(const WorldConfig& world, const Scene& scene, int object, Draws& draws, data::Sample& sample) {
  const SceneBox r = scene.objects[object].box(0);
  data::Box& box = *sample.add_boxes();
  box.set_x1(static_cast<float>(r.x1));
  box.set_y1(static_cast<float>(r.y1));
  box.set_x2(static_cast<float>(r.x2));
  box.set_y2(static_cast<float>(r.y2));
  box.set_phrase(referring_phrase(world, scene, object, draws));
  // The answer repeats the phrase and says the place in a word before it gives the box: a word is easier to learn than
  // four numbers, and right behind the phrase a model has to look for nothing but the object.
  std::string answer = cat(box.phrase(), " ", place_of(scene.objects[object]), ": <box>.");
  answer[0] = 'T';
  return {fill_prompt(region_prompts(), draws.below(1 << 30), box.phrase()), answer, sample.boxes_size() - 1};
}

// Turns of a sample: phrases of targets (region only), then different questions up to world.turns, in random order.
void add_turns(const WorldConfig& world, const Scene& scene, const std::string& dataset, data::Sample& sample) {
  Draws draws(scene.key.with("text"));
  std::vector<Pair> pairs;
  if (dataset == "caption") {
    const auto& prompts = caption_prompts();
    pairs.push_back({prompts[draws.below(static_cast<int>(prompts.size()))], caption(world, scene, draws)});
  } else if (dataset == "region") {
    std::vector<int> targets = scene.targets;
    shuffle(targets, draws);
    targets.resize(std::min<size_t>(targets.size(), world.turns - world.region_questions));
    for (int target : targets) pairs.push_back(expression(world, scene, target, draws, sample));
  }
  const int wanted = dataset == "caption" ? 1 : world.turns;
  std::set<std::string> asked;
  // A few scenes have so little to ask that they get fewer turns.
  for (int tries = 0; tries < 8 * wanted && static_cast<int>(pairs.size()) < wanted; ++tries) {
    const Question q = ask(world, scene, draws);
    if (asked.insert(q.text).second) pairs.push_back({q.text, q.answer, -1});
  }
  shuffle(pairs, draws);
  for (const Pair& pair : pairs) {
    data::Turn& user = *sample.add_turns();
    user.set_role(data::Turn::USER);
    user.set_text(pair.question);
    data::Turn& answer = *sample.add_turns();
    answer.set_role(data::Turn::ASSISTANT);
    answer.set_text(pair.answer);
    if (pair.box >= 0) answer.add_boxes(pair.box);
  }
}

}  // namespace

const std::vector<std::string>& world_datasets() {
  static const std::vector<std::string> kNames{"region", "conversation", "caption"};
  return kNames;
}

RawSample make_world_sample(const SynthOptions& options, const std::string& split, const std::string& dataset,
                            int64_t index) {
  const auto& known = world_datasets();
  check<ConfigError>(std::find(known.begin(), known.end(), dataset) != known.end(),
                     "the world has the datasets region, conversation and caption, not ", dataset);
  const WorldConfig& world = options.world;
  const Scene scene = make_scene(world, scene_key(options.seed, split, dataset, index));
  RawSample out;
  data::Sample& sample = out.sample;
  sample.set_id(cat(split, "-", dataset, "-", index));
  add_turns(world, scene, dataset, sample);
  data::Turn& first = *sample.mutable_turns(0);
  first.set_text("<image>\n" + first.text());

  const Image image = render(world, scene);
  const bool jpeg = options.format == PictureFormat::kJpeg;
  const auto bytes = jpeg ? encode_jpeg(image, kSynthJpegQuality) : encode_png(image);
  data::Media& media = *sample.add_media();
  media.set_kind(jpeg ? data::Media::JPEG : data::Media::PNG);
  media.set_width(image.width);
  media.set_height(image.height);
  media.add_frame_bytes(static_cast<uint32_t>(bytes.size()));
  media.set_source("generated");
  out.media.resize(bytes.size());
  std::copy(bytes.begin(), bytes.end(), out.media.data());
  return out;
}

void write_world_dataset(const SynthOptions& options, const std::string& split, const std::string& dataset,
                         int64_t count, const std::string& folder, const std::string& source,
                         const std::function<void(int64_t, int64_t)>& progress) {
  options.world.validate();
  StagedDataset staged(folder, dataset == "region" ? "region" : "conversation", source);
  for (int64_t i = 0; i < count; ++i) {
    const RawSample raw = make_world_sample(options, split, dataset, i);
    staged.writer().add(raw.sample, raw.media.view());
    if (progress) progress(i + 1, count);
  }
  staged.publish();
}

std::vector<std::string> world_text(const SynthOptions& options) {
  std::vector<std::string> lines = all_lines(options.world);
  for (size_t i = 0; i < region_prompts().size(); ++i) {
    for (const std::string& word : colour_names())
      lines.push_back(fill_prompt(region_prompts(), i, "the " + word + " object"));
    lines.emplace_back(kRegionAnswer.substr(0, kRegionAnswer.find('<')));
    lines.emplace_back("[INST] <Image></Image> [/INST]");
  }
  constexpr int64_t kSamples = 300;  // word frequencies as in training
  for (int64_t i = 0; i < kSamples; ++i) {
    for (const std::string& dataset : world_datasets()) {
      const Scene scene = make_scene(options.world, scene_key(options.seed, "train", dataset, i));
      data::Sample sample;
      add_turns(options.world, scene, dataset, sample);
      for (const data::Turn& turn : sample.turns()) {
        if (turn.role() == data::Turn::USER || turn.boxes_size() == 0) lines.push_back(turn.text());
      }
    }
  }
  return lines;
}

}  // namespace tpo
