#pragma once
// The composition root: the only place that reads a RunConfig. Components receive values.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/weights/plan.h"
#include "core/optim/lr_schedule.h"
#include "core/precision.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/mixer.h"
#include "data/templates.h"
#include "data/tokenizer/tokenizer.h"
#include "launcher/config.h"
#include "model/generate.h"
#include "parallel/mesh.h"
#include "parallel/sharding/bucket.h"

namespace tpo {

// Sizes of the model: the preset with the fields given in the configuration put over it.
// Throws ConfigError with every contradiction.
TpoConfig make_model_config(const config::RunConfig& config, int64_t vocab);

// Writes every size of the model into the configuration, so that its text says all that decides the model, whatever
// presets become later.
void resolve_model(config::RunConfig& config);
// Text that two configurations share if and only if their models compute the same function of the same weights.
std::string model_fingerprint(const config::RunConfig& config, int64_t vocab);

// Names and full shapes of all parameters, from the model on meta.
std::vector<NamedShape> parameter_shapes(const config::RunConfig& config, int64_t vocab);

// Throws DataError for another than the configuration names, but with checkpoint.allow_other_tokenizer.
std::unique_ptr<Tokenizer> make_tokenizer(const config::RunConfig& config);
// Writes size and fingerprint of the tokenizer, and the fingerprint of that of the connector's texts if there is one,
// into the configuration, so that what a run stores names them.
void resolve_tokenizer(const Tokenizer& tokenizer, const Tokenizer* of_connector, config::RunConfig& config);
struct OtherTokenizer : ConfigError {
  using ConfigError::ConfigError;
};
// Throws OtherTokenizer that names both if `saved`, the configuration of a checkpoint, names another tokenizer than the
// resolved `config`, or another of the connector's texts. Configurations that name none, as all once did, pass, and all
// with checkpoint.allow_other_tokenizer.
void check_tokenizer(const std::string& saved, const std::string& checkpoint, const config::RunConfig& config);
// Templates whose slot counts and lengths agree with the model of this configuration. Reads data.connector_tokenizer if
// there are texts for the connector.
std::unique_ptr<Templates> make_templates(const config::RunConfig& config, const Tokenizer& tokenizer);

// What a text beside a medium may have at most; 0: media have none. Throws ConfigError if the model cannot read any.
struct ConnectorTexts {
  int64_t longest = 0;       // tokens
  bool of_pictures = false;  // or of clips only
};
ConnectorTexts connector_texts(const config::RunConfig& config);

struct VisualSlots {
  int64_t of_whole = 0;                 // rows of the language model that a picture or clip takes
  std::optional<PictureTiling> tiling;  // pictures are tiled, and take as many as these say
};
VisualSlots visual_slots(const config::RunConfig& config, int64_t frames);

CollateOptions make_collate_options(const config::RunConfig& config);
// eval.generation, eos_id left open; `key` is the seed's, to be extended by what an answer is named by. Throws
// ConfigError with every contradiction.
GenerateOptions make_generate_options(const config::RunConfig& config);
// The same, with the ends: the tokenizer's end mark and the ids of eval.generation.stop; and without the ids that the
// tokenizer has no token for. ConfigError for an end without ids.
GenerateOptions make_generate_options(const config::RunConfig& config, const Tokenizer& tokenizer);
LrSchedule make_lr_schedule(const config::RunConfig& config);

// Sets trainable and lr_scale of every parameter by the patterns of the configuration; what no microbatch reads stays
// frozen (freeze_unread).
// Throws ConfigError for a pattern that matches no parameter, and for one of train.train that matches only such.
void apply_training_rules(const config::RunConfig& config, ParamStore& store);
// The same on a model without memory, with the rules of sharding: every pattern that matches nothing is a ConfigError,
// and so is a tensor axis with more ranks than there are heads.
void check_training_rules(const config::RunConfig& config);

Precision make_precision(const config::RunConfig& config);
// Size, sharding and prefetch of buckets, as the layout says.
BucketOptions make_bucket_options(const config::RunConfig& config);

// Axes of the ranks; layout.data 0 takes what pipe and tensor leave.
MeshShape make_mesh_shape(const config::RunConfig& config, int ranks);

// Everything that training reads: one open folder, its lengths and the mixture.
// Throws DataError that says how to rebuild a missing or stale length index, of data.eval_sets too;
// ConfigError for pictures and clips that could meet in a microbatch.
struct TrainingData {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Templates> templates;
  std::vector<std::unique_ptr<DatasetFolder>> folders;
  std::unique_ptr<Mixer> mixer;
  int64_t vocab = 0;  // of the tokenizer

  std::vector<LoaderDataset> loader_sets() const;
};
TrainingData make_training_data(const config::RunConfig& config);

}  // namespace tpo
