#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <set>

#include "checkpoint/safetensors/json.h"
#include "checkpoint/safetensors/safetensors.h"
#include "core/error.h"

namespace tpo {
namespace {

struct TypeInfo {
  const char* name;
  int64_t bytes;
};
constexpr TypeInfo kTypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
                               {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                               {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
static_assert(std::size(kTypes) == static_cast<size_t>(SafeType::kU64) + 1);
static_assert(std::endian::native == std::endian::little, "weights are read and written as they stand in memory");

constexpr char kIndexEnd[] = ".safetensors.index.json";

// Elements * width, or nothing if that is no int64.
std::optional<int64_t> bytes_of(const Shape& shape, SafeType type) {
  int64_t n = width_of(type);
  bool empty = false;
  for (int i = 0; i < shape.rank(); ++i) empty |= shape[i] == 0;
  for (int i = 0; i < shape.rank() && !empty; ++i) {
    if (__builtin_mul_overflow(n, shape[i], &n)) return std::nullopt;
  }
  return empty ? 0 : n;
}

// The value of one tensor's key. `where` names file and tensor.
SafeTensor parse_tensor(JsonCursor& json, const std::string& name, const std::string& where) {
  SafeTensor t;
  t.name = name;
  std::optional<std::string> dtype;
  std::optional<Shape> shape;
  std::vector<int64_t> offsets;
  json.object([&](const std::string& key) {
    if (key == "dtype" && !dtype) {
      dtype = json.string();
    } else if (key == "shape" && !shape) {
      shape.emplace();
      json.list([&] {
        check<DataError>(shape->rank() < Shape::kMaxRank, where, " has more than ", Shape::kMaxRank, " dims");
        shape->push_back(json.integer());
      });
    } else if (key == "data_offsets" && offsets.empty()) {
      json.list([&] {
        check<DataError>(offsets.size() < 2, where, ": data_offsets must be two numbers");
        offsets.push_back(json.integer());
      });
    } else {
      throw DataError(cat(where, ": field ", key, " is unknown or appears twice"));
    }
  });
  check<DataError>(dtype && shape && offsets.size() == 2, where, " lacks dtype, shape or data_offsets");
  const std::optional<SafeType> type = safe_type(*dtype);
  check<DataError>(type.has_value(), where, " has unknown dtype ", *dtype);
  const std::optional<int64_t> bytes = bytes_of(*shape, *type);
  check<DataError>(offsets[1] >= offsets[0] && bytes == offsets[1] - offsets[0], where, ": data_offsets [", offsets[0],
                   ", ", offsets[1], "] are not the bytes of ", *dtype, " ", *shape);
  t.type = *type, t.shape = *shape, t.begin = offsets[0], t.bytes = *bytes;
  return t;
}

}  // namespace

const char* name_of(SafeType type) { return kTypes[static_cast<size_t>(type)].name; }
int64_t width_of(SafeType type) { return kTypes[static_cast<size_t>(type)].bytes; }
std::optional<SafeType> safe_type(std::string_view name) {
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    if (name == kTypes[i].name) return static_cast<SafeType>(i);
  }
  return std::nullopt;
}

std::vector<SafeTensor> parse_safetensors_header(std::string_view text, int64_t data_bytes, const std::string& file) {
  JsonCursor json(text, file + " (header)");
  std::vector<SafeTensor> tensors;
  std::set<std::string> names;
  json.object([&](const std::string& name) {
    check<DataError>(names.insert(name).second, file, ": ", name, " appears twice in the header");
    if (name == "__metadata__") {
      json.object([&](const std::string&) { json.string(); });
    } else {
      tensors.push_back(parse_tensor(json, name, file + ": tensor " + name));
    }
  });
  json.end();
  std::sort(tensors.begin(), tensors.end(), [](const SafeTensor& a, const SafeTensor& b) {
    return std::tie(a.begin, a.bytes, a.name) < std::tie(b.begin, b.bytes, b.name);
  });
  int64_t end = 0;
  for (const SafeTensor& t : tensors) {
    check<DataError>(t.begin <= data_bytes && t.bytes <= data_bytes - t.begin, file, ": tensor ", t.name,
                     " ends at byte ", t.begin + t.bytes, " of the data, which has ", data_bytes);
    check<DataError>(t.begin >= end, file, ": tensor ", t.name, " begins at byte ", t.begin,
                     " of the data, inside the tensor before it, which ends at ", end);
    check<DataError>(t.begin == end, file, ": bytes ", end, " to ", t.begin, " of the data, before tensor ", t.name,
                     ", belong to no tensor");
    end = t.begin + t.bytes;
  }
  check<DataError>(end == data_bytes, file, ": the last tensor ends at byte ", end, " of the data, which has ",
                   data_bytes);
  return tensors;
}

std::map<std::string, std::string> parse_safetensors_index(std::string_view text, const std::string& file) {
  JsonCursor json(text, file);
  std::map<std::string, std::string> shard_of;
  bool found = false;
  json.object([&](const std::string& key) {
    if (key != "weight_map") return json.skip();
    check<DataError>(!found, file, ": weight_map appears twice");
    found = true;
    json.object([&](const std::string& name) {
      const std::string shard = json.string();
      const bool plain =
          !shard.empty() && shard[0] != '.' && shard.find_first_of(std::string("/\\\0", 3)) == shard.npos;
      check<DataError>(plain, file, ": tensor ", name, " is said to be in \"", shard,
                       "\"; legal is a file name of the same folder");
      check<DataError>(shard_of.emplace(name, shard).second, file, ": tensor ", name, " appears twice");
    });
  });
  json.end();
  check<DataError>(found, file, " has no weight_map");
  return shard_of;
}

void SafetensorsReader::open(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  auto ahead = std::make_unique<ReadAhead>(path);
  const File& file = ahead->file();
  const int64_t size = file.size();
  check<DataError>(size >= 8, path, " has ", size, " bytes and no header");
  uint64_t length = 0;
  file.read(std::as_writable_bytes(std::span(&length, 1)), 0);
  check<DataError>(length <= static_cast<uint64_t>(std::min(size - 8, kMaxSafetensorsHeader)), path,
                   ": its header claims ", length, " bytes; the file has ", size, ", and at most ",
                   kMaxSafetensorsHeader, " are legal");
  std::string header(length, '\0');
  file.read(std::as_writable_bytes(std::span(header.data(), header.size())), 8);
  const int64_t data = 8 + static_cast<int64_t>(length);
  for (SafeTensor& t : parse_safetensors_header(header, size - data, path)) {
    const int64_t offset = data + t.begin;
    const auto [it, first] = tensors_.try_emplace(t.name, Entry{t, files_.size(), offset});
    check<DataError>(first, path, ": tensor ", t.name, " is also in ", names_[it->second.file]);
  }
  files_.push_back(std::move(ahead));
}

SafetensorsReader::SafetensorsReader(const std::string& path) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(path)) {
    const fs::path p(path);
    check<IoError>(fs::exists(p), path, " does not exist");
    names_ = {p.filename().string()};
    open(p.has_parent_path() ? p.parent_path().string() : ".", names_[0]);
    return;
  }
  std::vector<std::string> indexes;
  for (const auto& e : fs::directory_iterator(path)) {
    const std::string name = e.path().filename().string();
    if (name.ends_with(kIndexEnd)) indexes.push_back(name);
    if (name.ends_with(".safetensors")) names_.push_back(name);
  }
  check<DataError>(indexes.size() <= 1, path, " has ", indexes.size(), " index files *", kIndexEnd);
  std::map<std::string, std::string> shard_of;
  if (!indexes.empty()) {
    const std::string index = path + "/" + indexes[0];
    shard_of = parse_safetensors_index(read_file(index, kMaxSafetensorsIndex), index);
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : shard_of) {
      check<DataError>(fs::is_regular_file(path + "/" + shard), index, ": tensor ", tensor, " is said to be in ", shard,
                       ", which is absent");
      shards.insert(shard);
    }
    names_.assign(shards.begin(), shards.end());
  }
  check<DataError>(!indexes.empty() || names_.size() == 1, path, " has ", names_.size(),
                   " files *.safetensors and no index; legal: one file, or an index with its shards");
  for (const std::string& name : names_) open(path, name);
  if (indexes.empty()) return;
  for (const auto& [tensor, shard] : shard_of) {
    const auto it = tensors_.find(tensor);
    check<DataError>(it != tensors_.end() && names_[it->second.file] == shard, path, "/", indexes[0], ": tensor ",
                     tensor, " is said to be in ", shard, ", which does not have it");
  }
  for (const auto& [name, entry] : tensors_) {
    check<DataError>(shard_of.contains(name), path, "/", names_[entry.file], ": tensor ", name, " is not in the index");
  }
}

int64_t SafetensorsReader::data_bytes() const {
  int64_t sum = 0;
  for (const auto& [name, entry] : tensors_) sum += entry.tensor.bytes;
  return sum;
}

void SafetensorsReader::read(const Entry& entry, int64_t at, std::span<std::byte> out) {
  TPO_ASSERT(at >= 0 && at + static_cast<int64_t>(out.size()) <= entry.tensor.bytes);
  if (entry.file != current_) files_[current_]->release();
  current_ = entry.file;
  files_[current_]->read(entry.offset + at, out, entry.offset, entry.offset + entry.tensor.bytes);
}

}  // namespace tpo
