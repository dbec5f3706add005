#pragma once
// One of our checkpoints in the layout of a public one.
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/safetensors/safetensors.h"
#include "checkpoint/weights/plan.h"

namespace tpo {

struct ExportOptions {
  std::string layout;
  // The public checkpoint that training started from, or empty: gives the tensors of parts that do not exist here, the
  // division into files and, without `type`, each tensor's type.
  std::string base;
  std::optional<SafeType> type;  // f32, bf16 or f16; nothing: that of base, else as stored
  LoraMerge lora;                // merge: adapters that the layout has no names for go into their weights
  bool drop_adapters = false;    // or stay away
  int64_t shard_bytes = 5'000'000'000;
  std::vector<std::string> allow_missing;  // patterns over their names
};

struct ExportReport {
  int64_t tensors = 0, bytes = 0, from_base = 0, overflows = 0;  // overflows: finite values that became infinite
  std::vector<NameNote> left_out;                                // ours without a name there
};

// Tensors named "optim.*" are no weights and stay away. `checkpoint` is a folder of save(); `out` is written whole or
// not at all. Checksums are not looked at: `ckpt verify` does. dry_run: everything but the writing.
// Throws ConfigError with all names of theirs that nobody gives, DataError for damaged or ill-shaped input, IoError.
ExportReport export_weights(const std::string& checkpoint, const std::string& out, const ExportOptions& options,
                            bool dry_run = false);

}  // namespace tpo
