// What stands in a folder of checkpoints: listing, the pointer to the newest, pruning.
#include "checkpoint/folder.h"

#include <algorithm>
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

bool is_step_name(const std::string& name) {
  return name.size() > kStep.size() && name.starts_with(kStep) && name.size() <= kStep.size() + 18 &&
         name.find_first_not_of("0123456789", kStep.size()) == std::string::npos;
}

bool is_complete(const std::string& folder) { return fs::is_regular_file(folder + "/" + kManifestName); }

int64_t step_of(const std::string& folder) {
  return std::stoll(fs::path(folder).filename().string().substr(kStep.size()));
}

}  // namespace

std::string step_name(int64_t step) {
  const std::string digits = std::to_string(step);
  return std::string(kStep) + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits;
}

void remove_leftovers(const std::string& dir) {
  for (const fs::directory_entry& e : fs::directory_iterator(dir)) {
    const std::string name = e.path().filename().string();
    if (name.starts_with(kTempPrefix) || name.starts_with(kTrashPrefix)) remove_tree(e.path().string());
  }
}

void remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  check<IoError>(!error, "cannot delete ", path, ": ", error.message());
}

std::vector<std::string> list_checkpoints(const std::string& dir) {
  std::vector<std::string> found;
  if (!fs::is_directory(dir)) return found;
  for (const fs::directory_entry& e : fs::directory_iterator(dir)) {
    if (is_step_name(e.path().filename().string()) && is_complete(e.path().string()))
      found.push_back(e.path().string());
  }
  std::sort(found.begin(), found.end(),
            [](const std::string& a, const std::string& b) { return step_of(a) < step_of(b); });
  return found;
}

std::string latest(const std::string& dir) {
  const std::string pointer = dir + "/" + kLatestName;
  if (fs::is_regular_file(pointer)) {
    std::string name = read_file(pointer, 4096);
    while (!name.empty() && name.back() == '\n') name.pop_back();
    const std::string folder = dir + "/" + name;
    if (is_step_name(name) && is_complete(folder)) return folder;
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
  std::vector<std::pair<int64_t, std::string>> others;  // a damaged manifest counts as oldest
  for (const std::string& folder : list_checkpoints(dir)) {
    if (fs::path(folder).filename() == fs::path(newest).filename()) continue;
    int64_t created = 0;
    try {
      created = read_checkpoint_manifest(folder).created_unix_ns();
    } catch (const Error&) {
    }
    others.emplace_back(created, folder);
  }
  std::stable_sort(others.begin(), others.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> gone;
  for (size_t i = 0; i + static_cast<size_t>(keep_last) < others.size() + 1; ++i) {
    const std::string& folder = others[i].second;
    const std::string trash = dir + "/" + kTrashPrefix + fs::path(folder).filename().string();
    remove_tree(trash);
    rename_path(folder, trash);  // a kill while deleting must not leave half a checkpoint under its name
    remove_tree(trash);
    gone.push_back(folder);
  }
  return gone;
}

}  // namespace tpo
