#pragma once
// Datasets of the generated world.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/synth/world.h"

namespace tpo {

enum class PictureFormat { kJpeg, kPng };
constexpr int kSynthJpegQuality = 92;  // of a 64 px picture, artefacts stay below the pixel noise of the world

struct SynthOptions {
  WorldConfig world;
  uint64_t seed = 1;
  PictureFormat format = PictureFormat::kJpeg;
};

// The datasets: region asks for boxes of scene targets (each phrase fits one object, no single attribute does);
// conversation asks questions with the answers of answer_vocabulary(); caption asks for a list of what is there.
const std::vector<std::string>& world_datasets();

// Sample `index` of a dataset of a split; pure in its arguments.
RawSample make_world_sample(const SynthOptions& options, const std::string& split, const std::string& dataset,
                            int64_t index);

// Writes samples 0..count-1 and publishes `folder`. progress(done, total) may be empty.
void write_world_dataset(const SynthOptions& options, const std::string& split, const std::string& dataset,
                         int64_t count, const std::string& folder, const std::string& source,
                         const std::function<void(int64_t, int64_t)>& progress = {});

// Text that trains a tokenizer for this world: all questions, phrases and prompts, and the turns of the first samples.
std::vector<std::string> world_text(const SynthOptions& options);

}  // namespace tpo
