#pragma once
// Saves and loads the state of a training run as named logical tensors: no trace of the layout that wrote them, so any
// layout (copies, shards, cuts over the tensor axis) loads any other. FORMAT.md describes the files.
// Thread rule: collective functions (those that take a ProcessGroup) are called by every rank with equal arguments,
// apart from which elements a rank holds. An error on one rank is thrown on all of them, naming the rank.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "parallel/comm/process_group.h"

namespace tpo {

// Bytes of a whole tensor that is not in memory.
class TensorBytes {
 public:
  virtual ~TensorBytes() = default;
  virtual DType dtype() const = 0;
  // Elements [first, first + out.size() / size). save() reads tensor by tensor and, of each, forwards.
  virtual void read(int64_t first, std::span<std::byte> out) = 0;
};

// A part of a logical tensor on this rank: elements [begin, begin + value.numel()), row-major, of a rectangle of the
// full tensor. Replicated state is the whole tensor on every rank. Otherwise a rank has any number of parts, as
// StateTensors of the same name without common elements; parts of different ranks may be equal or overlap, and all
// together they cover the tensor. Every rank names every tensor: one that holds nothing of it has a part of 0 elements.
struct StateTensor {
  std::string name;  // printable ASCII without '/' and '@'
  Tensor value;      // in host memory, of any shape; the handle is shared, load() writes through it
  Shape full;
  int64_t begin = 0;  // within rect
  Rect rect = {};     // four zeros, which hold no element, stand for whole_of(full)
  // For save() instead of a value: the whole tensor. Ranks that have it share the reading out as they do the writing.
  std::shared_ptr<TensorBytes> bytes = {};
};

struct TrainState {
  std::vector<StateTensor> tensors;
  std::map<std::string, int64_t> counters;  // step counts and the like
  std::string config_text;                  // resolved configuration, stored for people and for resume
  std::string model_fingerprint;            // text that equal models share; empty: not compared
};

struct SaveOptions {
  int keep_last = 0;  // complete checkpoints to keep, this one included; 0 keeps all
  // Called on rank 0 with one sentence for what failed after the checkpoint was complete: the pointer `latest`, or
  // deletions. Without it nobody learns.
  std::function<void(const std::string&)> warn = {};
  // Called on every rank with the name of each point passed (see writer.cpp); for tests that kill or fail a save.
  std::function<void(std::string_view)> at_point = {};
};

// Writes dir/step_%08d and points dir/latest at it; creates dir. Replaces a checkpoint of the same step atomically.
// Returns the folder. A kill at any moment leaves the former checkpoints loadable.
// Throws IoError naming path and bytes (full disk included), ConfigError if the ranks' states do not fit together, if
// two parts of one rank overlap, or naming the tensor and the first (row, column) that no rank holds; DeviceError for a
// tensor outside host memory. Then no folder of this step was made or changed. What cannot be done once the new
// checkpoint has its name is no failure of the save but a warning, and the next save tries again to delete.
std::string save(const std::string& dir, int64_t step, const TrainState& state, ProcessGroup& world,
                 const SaveOptions& options = {});

// Glob patterns over tensor names and "counter:<name>": * matches any run of characters, ? one.
struct LoadOptions {
  std::vector<std::string> allow_missing;     // in the state, not in the checkpoint: keeps its value
  std::vector<std::string> allow_unexpected;  // in the checkpoint, not in the state: not read
  std::vector<std::string> allow_shape;       // of another shape or dtype: keeps its value
  bool allow_other_model = false;             // do not compare model_fingerprint
};

struct LoadReport {
  int64_t step = 0;
  std::string config_text;                                 // of the run that saved
  std::vector<std::string> missing, unexpected, reshaped;  // allowed and skipped, sorted
};

// Fills state.tensors and state.counters; config_text and model_fingerprint of the state stay. A state without any
// counters takes all that the checkpoint has. f32 and bf16 fill each other, rounded to nearest if narrower.
// Throws DataError for a damaged, incomplete or other-version checkpoint, ConfigError for one that does not fit
// (all differences: their number and the first 20 of each kind), IoError if a file cannot be read. All of this is found
// before the first byte of the state changes; only a file that changes or fails between the checking pass and the
// copying pass is found later, and its message says that the state is no longer usable.
LoadReport load(const std::string& folder, TrainState& state, ProcessGroup& world, const LoadOptions& options = {});

struct CheckpointInfo {
  std::string folder;
  int64_t step = 0;
  int64_t tensors = 0;
  int64_t bytes = 0;  // of tensors, without file overhead
  int world = 0;      // ranks that wrote it
  int64_t created_unix_ns = 0;
  std::string model_fingerprint;
};

// Folders of complete checkpoints in dir, by step; empty if dir does not exist.
std::vector<std::string> list_checkpoints(const std::string& dir);
// The folder that the last save committed; empty if there is none.
std::string latest(const std::string& dir);
// Reads the manifest only. Throws DataError or IoError.
CheckpointInfo describe(const std::string& folder);
// Reads everything, opens each shard with HDF5, and returns one sentence per fault; empty if the checkpoint is sound.
std::vector<std::string> verify(const std::string& folder);
// Deletes the oldest by creation time until `keep_last` (>= 1) are left. Never deletes latest(dir). Returns what went.
std::vector<std::string> prune(const std::string& dir, int keep_last);

}  // namespace tpo
