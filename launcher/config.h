#pragma once
// Loads, overrides and validates a run configuration. All errors are collected and thrown together, each with its place
// and a legal alternative, before any communicator, file or tensor exists. Pure; callable from any thread.
#include <cstdint>
#include <string>
#include <vector>

#include "launcher/run_config.pb.h"

namespace tpo {

// Parses the text file `path`, applies `sets` ("path.to.field=value", repeated fields by index: data.sets.0.weight=3;
// an index equal to the count appends) in order and validates, the layout against `ranks` too when that is not 0.
// Throws ConfigError with one line per error.
config::RunConfig load_config(const std::string& path, const std::vector<std::string>& sets, int ranks = 0);

// The same from text; `origin` stands in messages for the file.
config::RunConfig parse_config(const std::string& text, const std::string& origin, const std::vector<std::string>& sets,
                               int ranks = 0);

// Everything a user may write, with defaults and comments' ranges: `tpo_dist train --help-config`.
std::string config_reference();

// Text form with every field resolved (defaults filled in), stored in checkpoints and run folders.
std::string resolved_text(const config::RunConfig& config);

// What a stored configuration says, whatever version wrote it; empty if it cannot be read.
config::RunConfig read_saved(const std::string& text);
// A configuration that a checkpoint stores, with every field of its time, under `sets`. A field that it does not have
// is younger, and gets the value that says what was done before: no tiles, no messages about frame times.
// checkpoint.allow_other_tokenizer counts in `sets` only.
config::RunConfig parse_saved_config(const std::string& text, const std::string& origin,
                                     const std::vector<std::string>& sets);

// Steps before those that profile.steps names, unless profile.first_step is given.
inline constexpr int64_t kProfileWarmUpSteps = 2;

// The legal name closest to `name` by edit distance, or empty if none is near.
std::string nearest(const std::string& name, const std::vector<std::string>& legal);

}  // namespace tpo
