#pragma once
// Trainer: the whole step, for every model, data-parallel size and head mix. It owns the model, its parameters and the
// parameter synchronisation of one rank; the configuration is read by build.h, data come from TrainingData.
// Thread rule: one thread constructs, uses and destroys a Trainer; its tensors live on the Trainer's stream, which is
// that thread's current stream for as long as the Trainer lives.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpointer.h"
#include "launcher/build.h"
#include "launcher/overlap.h"
#include "parallel/mesh.h"
#include "parallel/sharding/bucket_sync.h"

namespace tpo {

// One finished step; sums and maxima over all ranks, the same on every rank.
struct StepStats {
  int64_t step = 0;               // steps done, this one included
  double lm = 0, region = 0;      // mean loss per answer token and per box; 0 when the step had none
  std::vector<double> lm_of_set;  // per dataset: mean per answer token; NaN when the step had none of it
  double grad_norm = 0, lr = 0;
  Counts counts;      // of the whole step
  int64_t flops = 0;  // executed in matrix products and attention, all ranks; only rows with a label are projected
  int64_t model_flops = 0;  // the same without what is computed a second time: does not depend on recompute
  double step_s = 0;        // wall time of the slowest rank
  double wait_s = 0;        // longest wait for the loader on any rank
  double exposed_s = 0;     // longest wait for gradients and gathered values on any rank
  bool stop = false;        // some rank was asked to stop
};

class Trainer {
 public:
  // Collective over world. Creates the model with its initial values. Throws ConfigError.
  Trainer(const config::RunConfig& config, const TrainingData& data, ProcessGroup& world);
  ~Trainer();

  // Runs one step. Throws NonFiniteGradient naming the samples if loss or gradient is not finite, before any parameter
  // changed.
  StepStats step();
  // The same with these microbatches instead of the loader's: what a plan does without data. On meta their arrays are
  // asked for shapes only, but for cu_seqlens. data may then hold nothing but vocab.
  StepStats step(const LocalStep& local);

  // The next step() also runs its microbatches a second time, with communication stubbed out, for overlap(). That costs
  // one forward and backward; no parameter, moment or count changes by it. Collective: all ranks ask for it or none.
  void pair_next_step() { pair_next_ = true; }
  // What communication cost the steps since the last call; on rank 0, others get an empty report. Collective.
  OverlapReport overlap();
  // Forward, backward and reduction of these microbatches, whose gradients are thrown away. Collective.
  void run_again(const LocalStep& local);

  // Fills the loader's queue and lets threads start and the matrix library and attention take their workspace, as the
  // first step would: what the process holds afterwards is its baseline. Not needed for anything else.
  void warm_up();

  int64_t steps_done() const { return steps_done_; }
  // Saves under <run.folder>/checkpoints; returns the folder. Collective.
  std::string save();
  // Continues from this checkpoint: weights, optimizer, step. Returns a warning to print (changed configuration or
  // data), or empty. Throws ConfigError for another tokenizer, after which the trainer is not usable. Collective.
  std::string resume(const std::string& checkpoint);
  // Takes weights only. Throws as resume(). Collective.
  void init_from(const std::string& checkpoint, LoadOptions allow);

  // Hash of names, places and bits of all parameters, the same under every layout: equal hashes, equal models.
  // Collective.
  uint64_t parameter_hash();

  const TpoModel& model() const { return *model_; }
  ParamStore& store() { return *store_; }
  BucketSync& sync() { return *sync_; }
  const Mesh& mesh() const { return *mesh_; }
  Stream& stream() { return *stream_; }

 private:
  struct Sums;
  void enter(const char* phase);
  StepUse use_of(const StepPlan& plan) const;
  void run_gradients(const LocalStep& local, Sums& sums);
  void run_microbatch(const HostBatch& host, const TpoModel::Scales& scales, Sums& sums);
  StepStats finish(const LocalStep& local, const Sums& sums, double seconds);
  void check_finite(const Sums& sums) const;
  TrainState state(bool with_optimizer);
  void start_loader();

  config::RunConfig config_;
  const TrainingData& data_;
  ProcessGroup& world_;
  std::unique_ptr<Stream> stream_;
  StreamScope scope_;
  std::unique_ptr<Mesh> mesh_;
  std::unique_ptr<ParamStore> store_;
  std::unique_ptr<TpoModel> model_;
  std::unique_ptr<BucketSync> sync_;
  std::unique_ptr<Loader> loader_;
  LrSchedule lr_;
  int64_t steps_done_ = 0;
  double last_step_s_ = 0;     // wall time of the latest whole step(), without run_again
  double last_exposed_s_ = 0;  // of that step: waits for communication
  double again_s_ = 0;         // of run_again in the latest step
  bool pair_next_ = false;
  OverlapMeter overlap_;
};

// Sizes of a collated microbatch.
MicrobatchSize size_of(const HostBatch& host, const Counts& counts);

// Loads the weights of a checkpoint into a fresh model (no optimizer state): evaluation and prediction.
// The store must hold exactly the model's parameters. Collective.
void load_weights(const std::string& checkpoint, ParamStore& store, ProcessGroup& world, LoadOptions allow = {});

}  // namespace tpo
