// What stands in a folder of checkpoints: listing, the pointer to the newest, pruning.
#include "checkpoint/folder.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "checkpoint/checkpointer.h"
#include "checkpoint/file_io.h"
#include "checkpoint/manifest.h"
#include "core/error.h"

namespace fs = std::filesystem;

namespace tpo {
namespace {

constexpr std::string_view kStep = "step_";

bool is_complete(const std::string& folder) {
  std::error_code none;
  return fs::is_regular_file(folder + "/" + kManifestName, none);
}

// The complete checkpoint that stands under this name, or was set aside by a save that was killed before its successor
// took the name; empty if neither.
std::string complete_under(const std::string& folder) {
  for (const std::string& path : {folder, folder + kAsideSuffix}) {
    if (is_complete(path)) return path;
  }
  return "";
}

// Without the suffix of what was set aside.
std::string proper_path(const std::string& folder) {
  return folder.ends_with(kAsideSuffix) ? folder.substr(0, folder.size() - std::strlen(kAsideSuffix)) : folder;
}

std::string name_of(const std::string& folder) { return fs::path(folder).filename().string(); }

}  // namespace

std::string step_name(int64_t step) {
  const std::string digits = std::to_string(step);
  return std::string(kStep) + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits;
}

std::optional<int64_t> step_of_name(std::string_view name) {
  if (!name.starts_with(kStep)) return std::nullopt;
  name.remove_prefix(kStep.size());
  if (name.ends_with(kAsideSuffix)) name.remove_suffix(std::strlen(kAsideSuffix));
  if (name.empty() || name.size() > 18 || name.find_first_not_of("0123456789") != std::string_view::npos)
    return std::nullopt;
  return std::stoll(std::string(name));
}

std::vector<std::string> remove_leftovers(const std::string& dir) {
  std::vector<std::string> stay;
  for (const std::string& name : names_in(dir)) {
    const std::string path = dir + "/" + name;
    const bool replaced = step_of_name(name) && path.ends_with(kAsideSuffix) && is_complete(proper_path(path));
    if (!name.starts_with(kTempPrefix) && !name.starts_with(kTrashPrefix) && !replaced) continue;
    try {
      remove_tree(path);
    } catch (const IoError& e) {
      stay.push_back(e.what());
    }
  }
  return stay;
}

void remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  check<IoError>(!error, "cannot delete ", path, ": ", error.message());
}

std::vector<std::string> list_checkpoints(const std::string& dir) {
  std::vector<std::string> found;
  for (const std::string& name : names_in(dir)) {
    const std::string path = dir + "/" + name;
    if (step_of_name(name) && complete_under(proper_path(path)) == path) found.push_back(path);
  }
  std::sort(found.begin(), found.end(), [](const std::string& a, const std::string& b) {
    return step_of_name(name_of(a)) < step_of_name(name_of(b));
  });
  return found;
}

std::string latest(const std::string& dir) {
  const std::string pointer = dir + "/" + kLatestName;
  std::error_code none;
  if (fs::is_regular_file(pointer, none)) {
    std::string name = read_file(pointer, 4096);
    while (!name.empty() && name.back() == '\n') name.pop_back();
    if (step_of_name(name)) {
      if (const std::string folder = complete_under(dir + "/" + name); !folder.empty()) return folder;
    }
  }
  const std::vector<std::string> all = list_checkpoints(dir);
  return all.empty() ? "" : all.back();
}

CheckpointInfo describe(const std::string& folder) {
  const checkpoint::Manifest m = read_checkpoint_manifest(folder);
  CheckpointInfo info;
  info.folder = folder;
  info.step = m.step();
  info.tensors = m.tensors_size();
  for (const checkpoint::TensorEntry& t : m.tensors()) {
    for (const checkpoint::Piece& p : t.pieces()) info.bytes += p.bytes();
  }
  info.world = m.world();
  info.created_unix_ns = m.created_unix_ns();
  info.model_fingerprint = m.model_fingerprint();
  return info;
}

std::vector<std::string> prune(const std::string& dir, int keep_last) {
  check<ConfigError>(keep_last >= 1, "[checkpoint] keep_last ", keep_last, "; at least 1 is legal");
  const std::string newest = latest(dir);
  std::vector<std::pair<int64_t, std::string>> others;  // a manifest without a time counts as oldest
  for (const std::string& folder : list_checkpoints(dir)) {
    if (name_of(folder) == name_of(newest)) continue;
    int64_t created = 0;
    try {
      created = created_unix_ns(folder);
    } catch (const Error&) {
    }
    others.emplace_back(created, folder);
  }
  std::stable_sort(others.begin(), others.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> gone;
  for (size_t i = 0; i + static_cast<size_t>(keep_last) < others.size() + 1; ++i) {
    const std::string& folder = others[i].second;
    const std::string trash = dir + "/" + kTrashPrefix + name_of(folder);
    remove_tree(trash);
    if (folder == proper_path(folder)) remove_tree(folder + kAsideSuffix);  // would come to light as a checkpoint
    rename_path(folder, trash);  // a kill while deleting must not leave half a checkpoint under its name
    remove_tree(trash);
    gone.push_back(folder);
  }
  return gone;
}

}  // namespace tpo
