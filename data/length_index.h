#pragma once
// The length index of a dataset: one LengthEntry per sample in a file beside the shards, so that plans need no data.
// FORMAT.md.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/mixer.h"
#include "data/templates.h"

namespace tpo {

// What a sample costs whose text is `text`.
LengthEntry length_of(const data::Sample& sample, const TokenizedSample& text);

// File of the index for this dataset under these templates; the name holds the key.
std::string length_index_path(const DatasetFolder& dataset, const Templates& templates);

// Throws DataError naming the file: missing, stale or damaged, and the command that builds it.
std::vector<LengthEntry> load_length_index(const DatasetFolder& dataset, const Templates& templates);

// Tokenizes all samples with `threads` threads and writes the index; returns it. Samples that do not fit (see
// Templates::encode) are collected: one DataError lists up to 20 of them, and nothing is written. progress(done, total)
// may be empty; it is called from one thread at a time.
std::vector<LengthEntry> build_length_index(const DatasetFolder& dataset, const Templates& templates, int threads,
                                            const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace tpo
