#pragma once
// Writes a folder of safetensors files as the public implementations do: model.safetensors, or shards with an index.
// Within a file tensors stand by falling element type, then by name, so that every tensor is aligned to its elements;
// the header is padded with spaces to a multiple of 8 and has "__metadata__": {"format": "pt"}.
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/safetensors/safetensors.h"

namespace tpo {

struct TensorToWrite {
  std::string name;
  SafeType type = SafeType::kF32;
  Shape shape;
  size_t shard = 0;          // numbered from 0 without gaps
  std::string spelled = {};  // of an opaque tensor, see SafeTensor
};

// Fills shards in the order given: a new one begins where the next tensor would pass max_bytes.
void assign_shards(std::vector<TensorToWrite>& tensors, int64_t max_bytes);
// Bytes [at, at + to.size()) of tensors[i]; called in the order of the files, `at` a multiple of the element width.
using TensorFill = std::function<void(size_t i, int64_t at, std::span<std::byte> to)>;

// Creates `folder`, whole or not at all: everything is written to a temporary folder beside it, made durable, renamed.
// Memory: four buffers of 2 MiB and the headers. Throws ConfigError if the folder exists and is not empty or a name
// appears twice, IoError (a full disk included), and what fill throws; then nothing is left behind.
void write_safetensors(const std::string& folder, const std::vector<TensorToWrite>& tensors, const TensorFill& fill);

// Throws ConfigError if write_safetensors would not take this folder: it must be absent or empty.
void check_new_folder(const std::string& folder);

}  // namespace tpo
