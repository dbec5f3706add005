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
  // The public checkpoint that training started from, or empty: gives tensors that no parameter here stands for (see
  // plan_export), the spelling of names, the division into files and, without `type`, each tensor's type.
  std::string base;
  std::optional<SafeType> type;  // f32, bf16 or f16; nothing: that of base, else as stored
  LoraMerge lora;                // merge: adapters that the layout has no names for go into their weights
  bool drop_adapters = false;    // or stay away
  int64_t shard_bytes = 5'000'000'000;
  std::vector<std::string> allow_missing;  // patterns over their names
  bool allow_overflow = false;             // finite values may become infinite in a narrower type
};

struct ExportReport {
  int64_t tensors = 0, bytes = 0, from_base = 0, merged = 0;  // merged: low-rank terms inside their weights
  int64_t beyond = 0;                                         // layers of the base beyond the depth of the tower here
  std::vector<NameNote> left_out;                             // ours without a name there
  std::vector<NameNote> unwritten;  // theirs: patterns that nothing here needs, and allowed missing names
  std::vector<NameNote> added;      // written though the base lacks them
  std::vector<NameNote> untied;     // those among them that differ from the table that the base has for both (text)
  std::vector<NameNote> unknown;    // copied from base, though no row knows them
  std::vector<NameNote> zeroed;     // written as zeros: second factors; with a text (why), others
};

// Tensors named "optim.*" are no weights and stay away. `checkpoint` is a folder of save(), whose checksums are
// compared before anything is written. A head that the base ties to its table is left out if it still equals it. `out`
// is looked at first and written whole or not at all. dry_run: all but checksums and writing. Throws ConfigError with
// all names of theirs that nobody gives, and for a value that becomes infinite; DataError for damaged or ill-shaped
// input; IoError.
ExportReport export_weights(const std::string& checkpoint, const std::string& out, const ExportOptions& options,
                            bool dry_run = false);

}  // namespace tpo
