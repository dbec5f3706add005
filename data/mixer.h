#pragma once
// Which samples make step k: a pure function of (seed, mixture, k), the same on every rank, whatever the number of
// ranks.
//   - Weights are integers. One cycle of sum(weights) microbatches holds each dataset exactly `weight` times, in keyed
//   order.
//   - A dataset may take part in some steps only (a curriculum): cycles are made of the datasets of that section.
//   - A microbatch holds samples of one dataset. A dataset's samples are drawn in keyed order, each once per epoch.
//   - Within a step the samples of one dataset are spread over its microbatches so that token counts are even.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tpo {

// What a sample costs; from the length index.
struct LengthEntry {
  int32_t tokens = 0;       // length of its sequence
  int32_t loss_tokens = 0;  // labelled positions
  int32_t media = 0;        // pictures or clips
  int32_t regions = 0;      // <boxes> slots with targets
  int32_t box_inputs = 0;   // <track_box> slots
  int32_t views = 0;        // media as the encoder sees them: each view of a tiled picture counts
  int32_t visual_slots = 0;
  int32_t connector_tokens = 0;  // of the texts that the connector reads beside the media
  int32_t clips = 0;             // of media
  bool operator==(const LengthEntry&) const = default;
};

struct Slot {
  int16_t dataset = 0;
  int64_t sample = 0;
  int64_t draw = 0;  // how many samples of this dataset were drawn before, over all steps: epoch = draw / size
  bool operator==(const Slot&) const = default;
};

struct Counts {
  int64_t samples = 0, tokens = 0, loss_tokens = 0, media = 0, regions = 0, box_inputs = 0, views = 0,
          connector_tokens = 0;
  void add(const LengthEntry& e);
  void add(const Counts& c);
  bool operator==(const Counts&) const = default;
};

struct MicrobatchPlan {
  int dataset = 0;
  int64_t first_slot = 0, slots = 0;  // range in StepPlan::slots
  Counts counts;
  bool operator==(const MicrobatchPlan&) const = default;
};

struct StepPlan {
  int64_t step = 0;
  std::vector<Slot> slots;
  std::vector<MicrobatchPlan> microbatches;
  Counts total;                     // over the whole step: the normalisers of the losses
  std::vector<Counts> per_dataset;  // by dataset index

  // Microbatches [first, second) of rank `rank` of `world`: contiguous, all covered, sizes differ by at most one.
  std::pair<int, int> local(int rank, int world) const;
};

struct MixtureDataset {
  std::string name;
  int64_t weight = 1;                // >= 1
  std::vector<LengthEntry> lengths;  // one per sample
  int64_t samples_per_microbatch = 1;
  // Takes part in steps first_step .. end_step - 1; end_step 0: to the end of training.
  int64_t first_step = 0, end_step = 0;
};

class Mixer {
 public:
  // Throws ConfigError: no dataset, an empty dataset, weight < 1, weights over 4096 in sum (after division by their
  // common divisor), sizes < 1, steps in which no dataset takes part.
  Mixer(uint64_t seed, std::vector<MixtureDataset> datasets, int64_t microbatches_per_step);

  StepPlan plan(int64_t step) const;  // step >= 0; pure and thread-safe
  const std::vector<MixtureDataset>& datasets() const { return datasets_; }
  int64_t microbatches_per_step() const { return per_step_; }
  // Dataset of microbatch m (counted over all steps) and how many earlier microbatches have the same dataset.
  struct Draw {
    int dataset;
    int64_t earlier;
  };
  Draw draw(int64_t m) const;
  // Hash of all that decides plans: seed, weights, sizes, lengths. For checkpoints and logs.
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  // Steps with the same datasets. Microbatches are counted over all steps.
  struct Section {
    int64_t first;                // its first microbatch
    std::vector<int32_t> cycle;   // dataset per unshuffled position of a cycle
    std::vector<int64_t> share;   // by dataset: how often in a cycle
    std::vector<int64_t> before;  // by dataset: its microbatches before the section
  };
  Section make_section(int64_t step) const;
  void walk(const Section& section, int64_t first, int64_t end, std::vector<Draw>& out) const;
  std::vector<Draw> draws(int64_t first, int64_t count) const;
  std::vector<Slot> samples_of(int dataset, int64_t first_draw, int64_t count) const;

  uint64_t seed_;
  std::vector<MixtureDataset> datasets_;
  int64_t per_step_;
  std::vector<Section> sections_;  // by first microbatch; the last one has no end
  uint64_t fingerprint_ = 0;
};

}  // namespace tpo
