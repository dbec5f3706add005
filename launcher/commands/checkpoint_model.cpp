#include "launcher/commands/checkpoint_model.h"

#include <filesystem>

#include "checkpoint/checkpointer.h"
#include "checkpoint/manifest.h"
#include "core/parallel_for.h"
#include "launcher/trainer.h"

namespace tpo {

std::string resolve_checkpoint(const std::string& path) {
  for (const std::string& dir : {path + "/checkpoints", path})
    if (const std::string newest = latest(dir); !newest.empty()) return newest;
  std::error_code none;
  check<DataError>(std::filesystem::exists(path + "/" + kManifestName, none), path,
                   " is neither a checkpoint nor a run folder with checkpoints; tpo_dist ckpt ls FOLDER lists them");
  return path;
}

CheckpointModel::CheckpointModel(const std::string& path, const std::vector<std::string>& sets, ProcessGroup& world)
    : folder_(resolve_checkpoint(path)) {
  config_ = parse_saved_config(read_checkpoint_manifest(folder_).config(),
                               folder_ + " (configuration of the checkpoint)", sets);
  set_num_threads(config_.run().threads());
  tokenizer_ = make_tokenizer(config_);
  templates_ = make_templates(config_, *tokenizer_);
  alone_ = make_single("tensor");
  store_ = std::make_unique<ParamStore>(config_.run().seed(), make_precision(config_).weights);
  model_ = std::make_unique<TpoModel>(*store_, make_model_config(config_, tokenizer_->vocab_size()), *alone_);
  load_weights(folder_, *store_, world);
}

}  // namespace tpo
