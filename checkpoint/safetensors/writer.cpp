#include "checkpoint/safetensors/writer.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <numeric>

#include "checkpoint/file_io.h"
#include "checkpoint/folder.h"
#include "checkpoint/safetensors/json.h"
#include "core/error.h"

namespace tpo {
namespace {

int64_t bytes_of(const TensorToWrite& t) { return t.shape.numel() * width_of(t.type); }

// One file: which tensors, in which order, behind which header.
struct Plan {
  std::vector<size_t> order;
  std::vector<int64_t> begin;  // of each, from the start of the file
  std::string header;          // with the 8 bytes of its length
  int64_t bytes = 0;           // of the file
};

Plan plan_file(const std::vector<TensorToWrite>& tensors, std::vector<size_t> order) {
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const TensorToWrite &x = tensors[a], &y = tensors[b];
    return x.type != y.type ? x.type > y.type : x.name < y.name;
  });
  std::string json = R"({"__metadata__":{"format":"pt"})";
  int64_t end = 0;
  Plan plan;
  for (const size_t i : order) {
    const TensorToWrite& t = tensors[i];
    std::string shape;
    for (int d = 0; d < t.shape.rank(); ++d) shape += cat(d > 0 ? "," : "", t.shape[d]);
    json += cat(",", json_quoted(t.name), ":{");
    json += t.type == SafeType::kOpaque ? t.spelled : cat(R"("dtype":")", t.type, R"(","shape":[)", shape, "]");
    json += cat(R"(,"data_offsets":[)", end, ",", end + bytes_of(t), "]}");
    plan.begin.push_back(end);
    end += bytes_of(t);
  }
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');
  check<ConfigError>(static_cast<int64_t>(json.size()) <= kMaxSafetensorsHeader, "a safetensors header of ",
                     json.size(), " bytes is longer than the format allows; use smaller shards");
  const uint64_t length = json.size();
  plan.header.assign(reinterpret_cast<const char*>(&length), sizeof length);
  plan.header += json;
  for (int64_t& b : plan.begin) b += static_cast<int64_t>(plan.header.size());
  plan.order = std::move(order);
  plan.bytes = static_cast<int64_t>(plan.header.size()) + end;
  return plan;
}

// Bytes [at, at + to.size()) of the file.
void fill_stretch(const Plan& plan, const TensorFill& fill, int64_t at, std::span<std::byte> to) {
  const int64_t end = at + static_cast<int64_t>(to.size()), header = static_cast<int64_t>(plan.header.size());
  if (at < header) std::memcpy(to.data(), plan.header.data() + at, static_cast<size_t>(std::min(end, header) - at));
  auto i = static_cast<size_t>(std::upper_bound(plan.begin.begin(), plan.begin.end(), at) - plan.begin.begin());
  for (i = i > 0 ? i - 1 : 0; i < plan.order.size() && plan.begin[i] < end; ++i) {
    const int64_t last = i + 1 < plan.order.size() ? plan.begin[i + 1] : plan.bytes;
    const int64_t from = std::max(at, plan.begin[i]), until = std::min(end, last);
    if (from >= until) continue;
    fill(plan.order[i], from - plan.begin[i],
         to.subspan(static_cast<size_t>(from - at), static_cast<size_t>(until - from)));
  }
}

std::string five_digits(size_t n) {
  const std::string digits = std::to_string(n);
  return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
}

std::string index_text(const std::vector<TensorToWrite>& tensors, const std::vector<std::string>& files) {
  std::map<std::string, std::string> shard_of;
  int64_t total = 0;
  for (const TensorToWrite& t : tensors) shard_of[t.name] = files[t.shard], total += bytes_of(t);
  std::string text = cat("{\n  \"metadata\": {\n    \"total_size\": ", total, "\n  },\n  \"weight_map\": {");
  const char* separator = "\n    ";
  for (const auto& [name, file] : shard_of) {
    text += cat(separator, json_quoted(name), ": ", json_quoted(file));
    separator = ",\n    ";
  }
  return text + "\n  }\n}\n";
}

void write_files(const std::string& temp, const std::vector<TensorToWrite>& tensors, const TensorFill& fill) {
  size_t shards = 1;
  for (const TensorToWrite& t : tensors) shards = std::max(shards, t.shard + 1);
  std::vector<std::vector<size_t>> members(shards);
  for (size_t i = 0; i < tensors.size(); ++i) members[tensors[i].shard].push_back(i);
  std::vector<std::string> names;
  for (size_t s = 0; s < shards; ++s) {
    const Plan plan = plan_file(tensors, std::move(members[s]));
    names.push_back(shards == 1 ? "model.safetensors"
                                : cat("model-", five_digits(s + 1), "-of-", five_digits(shards), ".safetensors"));
    const std::string path = temp + "/" + names.back();
    write_file(path, "");
    PieceWriter writer(path);
    writer.file().reserve(plan.bytes);
    writer.write(plan.bytes, 0, [&](int64_t at, std::span<std::byte> to) { fill_stretch(plan, fill, at, to); });
    writer.finish();
  }
  if (shards > 1) write_file(temp + "/model.safetensors.index.json", index_text(tensors, names));
  sync_folder(temp);
}

std::string without_slash(const std::string& folder) {
  const std::filesystem::path path = std::filesystem::path(folder).lexically_normal();
  return path.has_filename() ? path.string() : path.parent_path().string();
}

}  // namespace

void check_new_folder(const std::string& folder) {
  namespace fs = std::filesystem;
  const std::string target = without_slash(folder);
  check<ConfigError>(!fs::exists(target) || (fs::is_directory(target) && fs::is_empty(target)), folder,
                     " exists already; give a new folder");
}

void assign_shards(std::vector<TensorToWrite>& tensors, int64_t max_bytes) {
  size_t shard = 0;
  int64_t filled = 0;
  for (TensorToWrite& t : tensors) {
    const int64_t bytes = bytes_of(t);
    if (filled > 0 && filled + bytes > max_bytes) ++shard, filled = 0;
    t.shard = shard;
    filled += bytes;
  }
}

void write_safetensors(const std::string& folder, const std::vector<TensorToWrite>& tensors, const TensorFill& fill) {
  namespace fs = std::filesystem;
  std::map<std::string, size_t> seen;
  for (const TensorToWrite& t : tensors) {
    check<ConfigError>(!t.name.empty() && seen.emplace(t.name, 0).second, "two tensors to write are named ", t.name);
  }
  check_new_folder(folder);
  const std::string target = without_slash(folder);
  const std::string parent = fs::path(target).has_parent_path() ? fs::path(target).parent_path().string() : ".";
  const std::string temp = parent + "/" + kTempPrefix + fs::path(target).filename().string();
  remove_tree(temp);
  std::error_code error;
  fs::create_directories(temp, error);
  check<IoError>(!error, "cannot create folder ", temp, ": ", error.message());
  try {
    write_files(temp, tensors, fill);
    rename_path(temp, target);  // an empty folder gives way
  } catch (...) {
    remove_tree(temp);
    throw;
  }
  sync_folder(parent);
}

}  // namespace tpo
