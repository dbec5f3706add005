// load() and verify(): manifest, fit, checksums, and only then the copy.
#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <span>

#include "checkpoint/checkpointer.h"
#include "checkpoint/checksum.h"
#include "checkpoint/hdf5_layout.h"
#include "checkpoint/held.h"
#include "checkpoint/manifest.h"
#include "checkpoint/shards.h"
#include "checkpoint/sift.h"
#include "checkpoint/together.h"
#include "core/error.h"
#include "core/kernels/storage.h"

namespace tpo {
namespace {

using checkpoint::Manifest;
using checkpoint::TensorEntry;

// bf16 fills fp32 with the same values, fp32 fills bf16 rounded: imported weights, and runs of another precision.
bool fills(DType file, DType memory) { return file == memory || (is_float(file) && is_float(memory)); }

// What is to be copied, and what was allowed to differ.
struct Fit {
  LoadReport report;
  std::map<std::string, HeldTensor> copies;
};

// Throws ConfigError with every difference that is not allowed.
Fit compare(const Manifest& m, const std::string& folder, const TrainState& state, const LoadOptions& options) {
  Fit fit;
  const std::map<std::string, HeldTensor> wanted = held_tensors(state);
  std::vector<NameNote> missing, unexpected, reshaped;
  std::set<std::string> counters;
  for (const checkpoint::Counter& c : m.counters()) {
    counters.insert(c.name());
    const std::string name = "counter:" + c.name();
    if (!state.counters.empty() && !state.counters.count(c.name())) unexpected.push_back({name, name});
  }
  for (const auto& [name, value] : state.counters) {
    if (!counters.count(name)) missing.push_back({"counter:" + name, "counter:" + name});
  }
  std::set<std::string> present;
  for (const TensorEntry& e : m.tensors()) {
    present.insert(e.name());
    const auto it = wanted.find(e.name());
    if (it == wanted.end()) {
      unexpected.push_back({e.name(), e.name()});
    } else if (shape_of(e) == it->second.full && fills(dtype_of(e), it->second.dtype)) {
      fit.copies.insert(*it);
    } else {
      reshaped.push_back({e.name(), cat(e.name(), " ", e.dtype(), shape_of(e), " there, ", it->second.dtype,
                                        it->second.full, " here")});
    }
  }
  for (const auto& [name, t] : wanted) {
    if (!present.count(name)) missing.push_back({name, name});
  }
  std::string message;
  if (!options.allow_other_model && !m.model_fingerprint().empty() && !state.model_fingerprint.empty() &&
      m.model_fingerprint() != state.model_fingerprint) {
    message += cat("; it is of another model: \"", m.model_fingerprint(), "\" there, \"", state.model_fingerprint,
                   "\" here (allow_other_model)");
  }
  fit.report.missing = sift(missing, options.allow_missing, "missing in the checkpoint (allow_missing)", message);
  fit.report.unexpected = sift(unexpected, options.allow_unexpected, "not in this model (allow_unexpected)", message);
  fit.report.reshaped = sift(reshaped, options.allow_shape, "of another shape (allow_shape)", message);
  check<ConfigError>(message.empty(), "checkpoint ", folder, " does not fit this model", message);
  fit.report.step = m.step();
  fit.report.config_text = m.config();
  return fit;
}

// Pieces with the checksums of their blocks, one behind the other.
struct Checked {
  std::vector<PieceRef> pieces;
  std::vector<uint64_t> blocks;
};

// Each piece is read and checked by one rank, which takes as many bytes as any other; a fault that one finds is thrown
// on all, and all get the checksums of all blocks.
Checked check_all(Shards& shards, const Manifest& manifest, const Fit& fit, ProcessGroup& world) {
  Checked out;
  out.pieces = in_file_order(manifest, [&](const TensorEntry& t) { return fit.copies.count(t.name()) != 0; });
  int64_t total = 0, before = 0;
  for (const PieceRef& ref : out.pieces) total += ref.piece->bytes();
  const auto found = together(world, [&] {
    std::vector<uint64_t> mine;
    for (const PieceRef& ref : out.pieces) {
      const auto share = static_cast<double>(before) / static_cast<double>(total) * world.size();
      before += ref.piece->bytes();
      if (static_cast<int>(share) != world.rank()) continue;
      const std::vector<uint64_t> blocks = shards.check_piece(ref);
      mine.insert(mine.end(), blocks.begin(), blocks.end());
    }
    return std::string(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(uint64_t));
  });
  for (const std::string& part : found) {
    const size_t at = out.blocks.size();
    out.blocks.resize(at + part.size() / sizeof(uint64_t));
    std::memcpy(out.blocks.data() + at, part.data(), part.size());
  }
  return out;
}

// Any piece into any parts: what both have, row by row. Blocks that have nothing for this rank are not read.
void copy_all(Shards& shards, const Checked& checked, const Fit& fit, const std::string& folder) {
  std::vector<std::byte> converted;
  try {
    size_t at = 0;
    for (const PieceRef& ref : checked.pieces) {
      const auto count = static_cast<size_t>(Shards::blocks_of(*ref.piece));
      const auto sums = std::span(checked.blocks).subspan(at, count);
      at += count;
      const HeldTensor& held = fit.copies.at(ref.tensor->name());
      const Part part = part_of(*ref.piece, held.full);
      std::vector<const HeldTensor::Block*> targets;
      for (const HeldTensor::Block& b : held.blocks) {
        if (overlap(part, b.part)) targets.push_back(&b);
      }
      if (targets.empty()) continue;
      const auto wanted = [&](const Part& block) {
        return std::any_of(targets.begin(), targets.end(), [&](const auto* b) { return overlap(block, b->part); });
      };
      shards.read_blocks(ref, sums, wanted, [&](const Part& block, const std::byte* bytes) {
        const auto size = static_cast<int64_t>(size_of(held.dtype));
        if (dtype_of(*ref.tensor) != held.dtype) {
          converted.resize(static_cast<size_t>(block.count * size));
          with_storage(dtype_of(*ref.tensor), [&]<class From>() {
            with_storage(held.dtype, [&]<class To>() {
              convert(reinterpret_cast<const From*>(bytes), reinterpret_cast<To*>(converted.data()), block.count);
            });
          });
          bytes = converted.data();
        }
        for (const HeldTensor::Block* b : targets) copy_common(block, bytes, b->part, b->value.raw(), size);
      });
    }
  } catch (const Error& e) {
    throw IoError(cat("checkpoint ", folder,
                      " changed or failed while it was read, and this run's state is partly "
                      "overwritten and no longer usable; start again: ",
                      e.what()));
  }
}

// Rank 0 reads and checks; the others get the result, which is far quicker to take in than the text.
Manifest read_on_first(const std::string& folder, ProcessGroup& world) {
  Manifest manifest;
  const auto all = together(world, [&] {
    if (world.rank() != 0) return std::string();
    manifest = read_checkpoint_manifest(folder);
    check_shard_files(manifest, folder);
    return world.size() == 1 ? std::string() : manifest.SerializeAsString();
  });
  if (world.rank() != 0) TPO_ASSERT(manifest.ParseFromString(all[0]));
  return manifest;
}

}  // namespace

LoadReport load(const std::string& folder, TrainState& state, ProcessGroup& world, const LoadOptions& options) {
  const Manifest manifest = read_on_first(folder, world);
  Fit fit;
  const auto names = together(world, [&] {
    fit = compare(manifest, folder, state, options);
    std::string list;
    for (const auto& [name, held] : fit.copies) list += name + "/";
    return hex64(checksum_of(list));
  });
  for (size_t r = 0; r < names.size(); ++r) {
    check<ConfigError>(names[r] == names[0], "[checkpoint] ranks 0 and ", r, " load different tensors");
  }
  Shards shards(manifest, folder);
  const Checked checked = check_all(shards, manifest, fit, world);
  together(world, [&] {
    copy_all(shards, checked, fit, folder);
    return std::string();
  });
  const bool take_all = state.counters.empty();
  for (const checkpoint::Counter& c : manifest.counters()) {
    if (take_all || state.counters.count(c.name())) state.counters[c.name()] = c.value();
  }
  return fit.report;
}

std::vector<std::string> verify(const std::string& folder) {
  std::vector<std::string> faults;
  const auto attempt = [&](auto f) {
    try {
      f();
      return true;
    } catch (const Error& e) {
      faults.push_back(e.what());
      return false;
    }
  };
  Manifest manifest;
  if (!attempt([&] { manifest = read_checkpoint_manifest(folder), check_shard_files(manifest, folder); }))
    return faults;
  Shards shards(manifest, folder);
  std::vector<std::vector<PlacedDataset>> placed(static_cast<size_t>(manifest.files_size()));
  for (const PieceRef& ref : in_file_order(manifest)) {
    attempt([&] { shards.check_piece(ref); });
    const checkpoint::Piece& p = *ref.piece;
    placed[static_cast<size_t>(p.file())].push_back({p.dataset(), p.offset(), p.bytes()});
  }
  for (size_t i = 0; i < placed.size(); ++i) {
    for (std::string& fault : faults_of_shard(cat(folder, "/", manifest.files(static_cast<int>(i)).name()), placed[i]))
      faults.push_back(std::move(fault));
  }
  return faults;
}

}  // namespace tpo
