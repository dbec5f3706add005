#pragma once
// Public checkpoints as the state of one of ours, read piece by piece while save() writes: nothing is ever there whole.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpointer.h"
#include "checkpoint/weights/maker.h"

namespace tpo {

struct WeightsImportOptions {
  LoraMerge lora;
  std::optional<DType> dtype;  // f32 or bf16; nothing: as stored, f16 as f32
  // Patterns over our names (missing, shape) and theirs (unexpected).
  std::vector<std::string> allow_missing, allow_unexpected, allow_shape;
  bool allow_overflow = false;  // finite values may become infinite in a narrower type
};

class WeightImport {
 public:
  // path (file or folder) and layout of each public checkpoint. Reads headers only. `ours`: every parameter's name and
  // full shape. Throws DataError for a lie in a file or two tensors that stand for one of ours; IoError; ConfigError
  // for a layout without a name.
  WeightImport(const std::vector<std::pair<std::string, std::string>>& sources, const std::vector<NamedShape>& ours,
               const WeightsImportOptions& options);
  ~WeightImport();

  // What was found, a line each: files, tensors by fate, adapters merged, every missing, unexpected and reshaped name
  // that no pattern allows; of the allowed ones their number and the first few.
  std::vector<std::string> report() const;
  // Throws ConfigError with all that is not allowed; DataError for a source whose dtype is no weight.
  void require_fit() const;
  // One StateTensor for each of ours that has a source; reading throws ConfigError for a value that becomes infinite.
  // Requires: this outlives it, and one thread reads.
  std::vector<StateTensor> tensors() const;

  int64_t bytes() const;       // of tensors(), as they are written
  int64_t bytes_read() const;  // from the files so far, headers apart

 private:
  struct Source;
  std::vector<NameNote> missing() const;

  WeightsImportOptions options_;
  std::vector<std::unique_ptr<Source>> sources_;
  std::vector<WeightSource> tensors_;  // of all sources, one after the other
  std::vector<ImportPlan> plans_;      // of each source
  std::unique_ptr<Maker> maker_;
};

}  // namespace tpo
