#pragma once
// A model as a checkpoint holds it, ready to answer: configuration, tokenizer, weights. Used by eval and predict.
#include <memory>
#include <string>
#include <vector>

#include "launcher/build.h"

namespace tpo {

// The checkpoint folder that `path` means: itself, or of a run folder or its checkpoints/ the newest. Throws DataError.
std::string resolve_checkpoint(const std::string& path);

class CheckpointModel {
 public:
  // `path` is a checkpoint folder or a run folder (its newest checkpoint is taken). `sets` override the configuration
  // stored in the checkpoint. Collective over world. Throws DataError, ConfigError.
  CheckpointModel(const std::string& path, const std::vector<std::string>& sets, ProcessGroup& world);

  const config::RunConfig& config() const { return config_; }
  const TpoModel& model() const { return *model_; }
  const Templates& templates() const { return *templates_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
  config::RunConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Templates> templates_;
  std::unique_ptr<ProcessGroup> alone_;
  std::unique_ptr<ParamStore> store_;
  std::unique_ptr<TpoModel> model_;
};

}  // namespace tpo
