#pragma once
// What a step of a configuration needs, found by running the trainer itself on meta: the same program, without data and
// without memory. Bytes are those of a real step to the byte (tests/launcher/step_plan_test.cpp).
#include <span>
#include <string>
#include <vector>

#include "core/memory.h"
#include "launcher/build.h"

namespace tpo {

// The microbatches that a plan runs, and where their sizes come from.
struct StepShape {
  struct Kind {
    std::string name;  // dataset, or "limits"
    MicrobatchSize size;
    double share = 1;  // of all microbatches
  };
  std::vector<Kind> kinds;
  std::string source;  // for people
};

// The largest microbatch that the limits allow: samples_per_microbatch samples of max_tokens tokens with `media`
// pictures (or clips, if model.vision.clip_frames > 1; both, as two kinds, if pictures are tiled) each, one box asked
// for and one box given each. Pictures in tiles are those of most views that fit, without black edges; texts beside
// media are as long as they may be. Throws ConfigError if so many pictures do not fit max_tokens.
StepShape shape_of_limits(const config::RunConfig& config, int64_t media);
// Per dataset the largest microbatch that the mixture can make: as many tokens, pictures and boxes as its largest
// samples have, and media of as many frames as its longest. Each is taken for itself, so no real microbatch is larger
// in any. Where pictures are tiled they have as many views and fill as many slots as the largest samples, at least. A
// dataset of pictures and clips that are never in one microbatch is two kinds, half of its share each. Reads the length
// indices only.
StepShape shape_of_data(const config::RunConfig& config, const TrainingData& data);

// A step of these microbatches on the first of so many ranks of the data axis, as many and as large on the others;
// arrays hold shapes only (but cu_seqlens).
LocalStep make_local_step(std::span<const MicrobatchSize> sizes, const TpoModel& model, int data_ranks = 1);

// Names of parameters in the order in which the forward pass of a microbatch with everything in it (a picture, a box
// asked for, a box given) uses them, found by running it on meta.
std::vector<std::string> order_of_use(config::RunConfig config, int64_t vocab);

struct StepNeeds {
  MemoryUse memory;            // with a moment for each phase of the trainer
  AllocatorStats allocator;    // held_peak_bytes: what the allocator takes from the system
  std::vector<int64_t> flops;  // of the model, by microbatch (plan_steps: by kind), in matrix products and attention
  std::vector<int64_t> batch_bytes;  // likewise, in host memory, while the loader has it
  int64_t params = 0, trainable = 0;
  int64_t buckets = 0, largest_bucket_bytes = 0;  // of gradients, as ranks exchange them
  // Of all kinds while every value is whole, as evaluation during training has it, without what it computes.
  int64_t whole_values_bytes = 0;
};
// Runs construction and one step in simulated groups, data_ranks times the tensor axis of the configuration, whose
// device and data axis are not looked at. The rank is the last one of the tensor axis, whose parts are largest where
// sizes do not divide, on the first place of the data axis. Throws ConfigError.
StepNeeds plan_step(config::RunConfig config, int64_t vocab, std::span<const MicrobatchSize> microbatches,
                    int data_ranks = 1);

// Orders of `local` microbatches of so many kinds, as indices of kinds, that together need what any order does. Without
// rounds (Bucket::in_rounds) the first microbatch writes gradients and later ones add, whatever their order: two of
// each kind. With rounds a reduction reaches into the next microbatch and a gather comes up to prefetch_buckets ahead,
// so that neighbours matter: every order, if they are few; else one that has every three kinds in a row (of more than
// three kinds, every two) and can be longer than `local`, up to kMostKinds of them, beyond which a kind meets itself
// and one other.
constexpr size_t kMostKinds = 8;
std::vector<std::vector<size_t>> orders_of_kinds(size_t kinds, int64_t local, bool rounds);

// The largest of each number over these orders.
StepNeeds plan_steps(const config::RunConfig& config, int64_t vocab, std::span<const StepShape::Kind> kinds,
                     int64_t local, int data_ranks = 1);

}  // namespace tpo
