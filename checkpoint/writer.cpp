// save(): agree on who writes what, write shards, commit. The order of steps and what a kill at each leaves: FORMAT.md.
// Points reported to SaveOptions::at_point, in order: prepared (rank 0), laid_out, half_written, shard_written (ranks
// that write anything), manifest_written, set_aside (replacing where paths cannot be exchanged), renamed,
// latest_written, pruned (rank 0).
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <span>

#include "checkpoint/assignment.h"
#include "checkpoint/checkpointer.h"
#include "checkpoint/file_io.h"
#include "checkpoint/folder.h"
#include "checkpoint/hdf5_layout.h"
#include "checkpoint/held.h"
#include "checkpoint/manifest.h"
#include "checkpoint/together.h"
#include "core/error.h"

namespace tpo {
namespace {

using checkpoint::Manifest;
using checkpoint::Piece;
using checkpoint::TensorEntry;

// One save on one rank.
class Saver {
 public:
  Saver(const std::string& dir, int64_t step, const TrainState& state, ProcessGroup& world, const SaveOptions& options)
      : dir_(dir),
        final_(dir + "/" + step_name(step)),
        temp_(dir + "/" + kTempPrefix + step_name(step)),
        pointer_(dir + "/" + kTempPrefix + kLatestName),
        step_(step),
        state_(state),
        world_(world),
        options_(options) {}

  std::string run() {
    plan(together(world_, [&] { return hold().SerializeAsString(); }));
    together(world_, [&] { return on_first([&] { prepare(); }); });
    try {
      const auto shards = together_to_first(world_, [&] { return write_shard().SerializeAsString(); });
      together(world_, [&] { return on_first([&] { commit(shards); }); });
    } catch (const Error&) {
      if (world_.rank() == 0) clean();
      throw;
    }
    together(world_, [&] { return on_first([&] { finish(); }); });
    return final_;
  }

 private:
  template <class F>
  std::string on_first(F f) {
    if (world_.rank() == 0) f();
    return "";
  }
  void point(std::string_view name) {
    if (options_.at_point) options_.at_point(name);
  }

  Manifest hold();
  void plan(const std::vector<std::string>& held_by_rank);
  void prepare();
  Manifest write_shard();
  void commit(const std::vector<std::string>& shards);
  void place();
  void finish();
  void clean();
  void fill(const PieceTask& task, int64_t at, std::span<std::byte> to) const;

  const std::string dir_, final_, temp_, pointer_;
  const int64_t step_;
  const TrainState& state_;
  ProcessGroup& world_;
  const SaveOptions& options_;
  std::map<std::string, HeldTensor> held_;
  Manifest head_;                       // what all ranks agree on; tensors without pieces
  std::vector<LogicalTensor> tensors_;  // as in head_
  std::vector<PieceTask> tasks_;
};

// This rank's view: the agreed part, and per tensor pieces that say which elements it holds.
Manifest Saver::hold() {
  Manifest m;
  m.set_version(kCheckpointVersion);
  m.set_step(step_);
  m.set_world(world_.size());
  m.set_model_fingerprint(state_.model_fingerprint);
  m.set_config(state_.config_text);
  for (const auto& [name, value] : state_.counters) {
    checkpoint::Counter* c = m.add_counters();
    c->set_name(name), c->set_value(value);
  }
  held_ = held_tensors(state_);
  for (const auto& [name, t] : held_) {
    TensorEntry* e = m.add_tensors();
    e->set_name(name);
    e->set_dtype(name_of(t.dtype));
    for (int i = 0; i < t.full.rank(); ++i) e->add_shape(t.full[i]);
    for (const HeldTensor::Block& b : t.blocks) *e->add_pieces() = piece_of(b.part, t.full);
  }
  return m;
}

// Names the first thing in which a rank differs from rank 0.
std::string first_difference(const Manifest& a, const Manifest& b) {
  if (a.step() != b.step()) return cat("step ", b.step(), " instead of ", a.step());
  for (int i = 0; i < std::min(a.tensors_size(), b.tensors_size()); ++i) {
    const TensorEntry &x = a.tensors(i), &y = b.tensors(i);
    if (x.SerializeAsString() == y.SerializeAsString()) continue;
    return cat("tensor ", y.name(), " ", y.dtype(), shape_of(y), " instead of ", x.name(), " ", x.dtype(), shape_of(x));
  }
  if (a.tensors_size() != b.tensors_size()) return cat(b.tensors_size(), " tensors instead of ", a.tensors_size());
  return "counters, configuration or fingerprint";
}

void Saver::plan(const std::vector<std::string>& held_by_rank) {
  for (size_t r = 0; r < held_by_rank.size(); ++r) {
    Manifest m;
    TPO_ASSERT(m.ParseFromString(held_by_rank[r]));
    std::vector<std::vector<Part>> held;
    for (TensorEntry& t : *m.mutable_tensors()) {
      held.emplace_back();
      for (const Piece& p : t.pieces()) held.back().push_back(part_of(p, shape_of(t)));
      t.clear_pieces();
    }
    if (r == 0) {
      head_ = m;
      for (const TensorEntry& t : head_.tensors()) {
        tensors_.push_back({t.name(), shape_of(t), static_cast<int64_t>(size_of(dtype_of(t))), {}});
      }
    }
    check<ConfigError>(m.SerializeAsString() == head_.SerializeAsString(), "[checkpoint] ranks 0 and ", r,
                       " save different states: rank ", r, " has ", first_difference(head_, m));
    for (size_t i = 0; i < held.size(); ++i) tensors_[i].held.push_back(std::move(held[i]));
  }
  tasks_ = assign_pieces(tensors_, world_.size());
}

void Saver::prepare() {
  make_folders(dir_);
  remove_leftovers(dir_);  // what stays is in nobody's way, but for this:
  remove_tree(temp_);
  int64_t bytes = 0;
  for (const PieceTask& t : tasks_) bytes += t.part.count * tensors_[t.tensor].element_bytes;
  const int64_t free = free_bytes(dir_);
  check<IoError>(free >= bytes, "cannot save checkpoint ", final_, ": it needs ", bytes, " bytes, the disk has ", free,
                 " free");
  std::error_code error;
  std::filesystem::create_directory(temp_, error);
  check<IoError>(!error, "cannot create folder ", temp_, ": ", error.message());
  point("prepared");
}

// Bytes [at, at + to.size()) of the piece, gathered from this rank's parts.
void Saver::fill(const PieceTask& task, int64_t at, std::span<std::byte> to) const {
  const LogicalTensor& t = tensors_[task.tensor];
  const int64_t size = t.element_bytes;
  const Part stretch{task.part.rect, task.part.begin + at / size, static_cast<int64_t>(to.size()) / size};
  for (const HeldTensor::Block& b : held_.at(t.name).blocks) {
    if (b.bytes) {  // a whole tensor, of which every piece is a run
      b.bytes->read(stretch.begin, to);
    } else {
      copy_common(b.part, b.value.raw(), stretch, to.data(), size);
    }
  }
}

// Of a piece that is not the whole tensor: unique in the tensor, and enough to put it back (FORMAT.md).
std::string dataset_name(const std::string& tensor, const Part& part, const Shape& full) {
  const Rect& r = part.rect;
  const bool run = r == whole_of(full);
  return cat(tensor, "@", run ? "" : cat(r.row, "+", r.rows, ",", r.col, "+", r.cols, "@"), part.begin);
}

// Writes this rank's file. Result: one file, and as many tensors as tasks of this rank, each with its one piece.
Manifest Saver::write_shard() {
  Manifest out;
  std::vector<const PieceTask*> mine;
  std::vector<DatasetLayout> layout;
  for (const PieceTask& t : tasks_) {
    if (t.rank != world_.rank()) continue;
    const TensorEntry& entry = head_.tensors(t.tensor);
    const Shape& full = tensors_[t.tensor].full;
    const bool whole = t.part.count == full.numel();
    mine.push_back(&t);
    layout.push_back({whole ? entry.name() : dataset_name(entry.name(), t.part, full), dtype_of(entry),
                      whole ? full : Shape{t.part.count}});
  }
  if (mine.empty()) return out;
  const std::string digits = std::to_string(world_.rank());
  const std::string name = "shard_" + std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits + ".h5";
  const std::string path = temp_ + "/" + name;
  const std::vector<int64_t> offsets = create_shard(path, layout);
  point("laid_out");
  PieceWriter writer(path);
  writer.file().reserve(writer.file().size());
  for (size_t i = 0; i < mine.size(); ++i) {
    if (i == mine.size() / 2) point("half_written");
    const PieceTask& task = *mine[i];
    const int64_t bytes = task.part.count * tensors_[task.tensor].element_bytes;
    Piece* p = out.add_tensors()->add_pieces();
    *p = piece_of(task.part, tensors_[task.tensor].full);
    p->set_dataset(layout[i].name);
    p->set_offset(offsets[i]), p->set_bytes(bytes);
    p->set_xxh3(writer.write(bytes, offsets[i], [&](int64_t at, std::span<std::byte> to) { fill(task, at, to); }));
  }
  writer.finish();
  checkpoint::File* file = out.add_files();
  file->set_name(name), file->set_bytes(writer.file().size());
  point("shard_written");
  return out;
}

void Saver::commit(const std::vector<std::string>& shards) {
  Manifest manifest = head_;
  std::vector<Manifest> parts(shards.size());
  std::vector<int> file_number(shards.size()), next(shards.size(), 0);
  for (size_t r = 0; r < shards.size(); ++r) {
    TPO_ASSERT(parts[r].ParseFromString(shards[r]));
    file_number[r] = manifest.files_size();
    manifest.mutable_files()->MergeFrom(parts[r].files());
  }
  for (const PieceTask& t : tasks_) {  // each rank reported its pieces in this order
    Piece* p = manifest.mutable_tensors(t.tensor)->add_pieces();
    *p = parts[t.rank].tensors(next[t.rank]++).pieces(0);
    p->set_file(file_number[t.rank]);
  }
  manifest.set_created_unix_ns(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
  write_file(pointer_, step_name(step_) + "\n");  // before the commit: whatever may run out of space comes first
  write_file(cat(temp_, "/", kManifestName), manifest_text(manifest));
  sync_folder(temp_);
  point("manifest_written");
  place();
}

// Gives the finished folder its name: the commit. What it replaces is then under the temporary name, or set aside.
void Saver::place() {
  std::error_code ignored;
  if (!std::filesystem::exists(final_, ignored)) return rename_path(temp_, final_);
  if (exchange_paths(temp_, final_)) return;
  const std::string aside = final_ + kAsideSuffix;
  remove_tree(aside);
  rename_path(final_, aside);
  try {
    point("set_aside");
    rename_path(temp_, final_);
  } catch (const std::exception&) {
    std::filesystem::rename(aside, final_, ignored);
    throw;
  }
}

// After the commit: whatever fails here, the checkpoint is complete. Older ones go only once it is the latest.
void Saver::finish() {
  const auto warn = [&](const std::string& text) {
    if (options_.warn) options_.warn(cat("checkpoint ", final_, " is complete, but ", text));
  };
  try {
    sync_folder(dir_);
    point("renamed");
    rename_path(pointer_, dir_ + "/" + kLatestName);
    sync_folder(dir_);
    point("latest_written");
    for (const std::string& text : remove_leftovers(dir_)) warn(text);
    if (options_.keep_last > 0) prune(dir_, options_.keep_last);
  } catch (const std::exception& e) {
    warn(e.what());
  }
  point("pruned");
}

// After an error before the commit: a full disk gets its space back. The error that is thrown stays that of the save.
void Saver::clean() {
  std::error_code ignored;
  for (const std::string& path : {temp_, pointer_}) std::filesystem::remove_all(path, ignored);
}

}  // namespace

std::string save(const std::string& dir, int64_t step, const TrainState& state, ProcessGroup& world,
                 const SaveOptions& options) {
  check<ConfigError>(step >= 0, "[checkpoint] step ", step, "; at least 0 is legal");
  return Saver(dir, step, state, world, options).run();
}

}  // namespace tpo
