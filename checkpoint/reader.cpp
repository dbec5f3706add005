// load() and verify(): manifest, fit, checksums, and only then the copy.
#include <algorithm>
#include <map>
#include <set>
#include <string_view>

#include "checkpoint/checkpointer.h"
#include "checkpoint/held.h"
#include "checkpoint/manifest.h"
#include "checkpoint/shards.h"
#include "checkpoint/together.h"
#include "core/error.h"

namespace tpo {
namespace {

using checkpoint::Manifest;
using checkpoint::Piece;
using checkpoint::TensorEntry;

constexpr size_t kListed = 20;  // differences of one kind that a message lists

bool glob(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++, resume = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p, ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1, n = ++resume;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

bool allowed(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& p) { return glob(p, name); });
}

struct Difference {
  std::string name, text;
};

// Appends to `message` what of one kind is not allowed; returns the names of what is.
std::vector<std::string> sift(const std::vector<Difference>& found, const std::vector<std::string>& patterns,
                              const std::string& kind, std::string& message) {
  std::vector<std::string> skipped;
  size_t refused = 0;
  std::string list;
  for (const Difference& d : found) {
    if (allowed(patterns, d.name)) {
      skipped.push_back(d.name);
    } else if (++refused <= kListed) {
      list += (refused > 1 ? ", " : " ") + d.text;
    }
  }
  if (refused > kListed) list += cat(" and ", refused - kListed, " more");
  if (refused > 0) message += cat("; ", refused, " ", kind, ":", list);
  return skipped;
}

// What is to be copied, and what was allowed to differ.
struct Fit {
  LoadReport report;
  std::vector<std::pair<const TensorEntry*, HeldTensor>> copies;
};

// Throws ConfigError with every difference that is not allowed.
Fit compare(const Manifest& m, const std::string& folder, const TrainState& state, const LoadOptions& options) {
  Fit fit;
  const std::map<std::string, HeldTensor> wanted = held_tensors(state);
  std::vector<Difference> missing, unexpected, reshaped;
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
    } else if (shape_of(e) == it->second.full && dtype_of(e) == it->second.dtype) {
      fit.copies.emplace_back(&e, it->second);
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

// Any piece into any parts: what both have, row by row. Pieces that have nothing for this rank are not read.
void copy_all(Shards& shards, const Fit& fit, const std::string& folder) {
  try {
    for (const auto& [entry, held] : fit.copies) {
      const Shape full = shape_of(*entry);
      const int64_t size = static_cast<int64_t>(size_of(held.dtype));
      for (const Piece& p : entry->pieces()) {
        std::vector<const HeldTensor::Block*> targets;
        for (const HeldTensor::Block& b : held.blocks) {
          if (overlap(part_of(p, full), b.part)) targets.push_back(&b);
        }
        if (targets.empty()) continue;
        shards.read(*entry, p, [&](const Part& stretch, const std::byte* bytes) {
          for (const HeldTensor::Block* b : targets) copy_common(stretch, bytes, b->part, b->value.raw(), size);
        });
      }
    }
  } catch (const Error& e) {
    throw IoError(cat("checkpoint ", folder,
                      " changed or failed while it was read, and this run's state is partly "
                      "overwritten and no longer usable; start again: ",
                      e.what()));
  }
}

}  // namespace

LoadReport load(const std::string& folder, TrainState& state, ProcessGroup& world, const LoadOptions& options) {
  Manifest manifest;
  Fit fit;
  together(world, [&] {
    manifest = read_checkpoint_manifest(folder);
    check_shard_files(manifest, folder);
    fit = compare(manifest, folder, state, options);
    return std::string();
  });
  Shards shards(manifest, folder);
  together(world, [&] {  // the ranks share the pieces out; a fault that one finds is thrown on all
    int64_t number = 0;
    for (const auto& [entry, held] : fit.copies) {
      for (const Piece& p : entry->pieces()) {
        if (number++ % world.size() == world.rank()) shards.read(*entry, p, {});
      }
    }
    return std::string();
  });
  together(world, [&] {
    copy_all(shards, fit, folder);
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
  for (const TensorEntry& t : manifest.tensors()) {
    for (const Piece& p : t.pieces()) attempt([&] { shards.read(t, p, {}); });
  }
  return faults;
}

}  // namespace tpo
