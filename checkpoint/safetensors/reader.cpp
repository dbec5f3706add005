#include <algorithm>
#include <array>
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
constexpr TypeInfo kTypes[] = {{"BOOL", 1},    {"opaque", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
                               {"F8_E8M0", 1}, {"I16", 2},    {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                               {"U32", 4},     {"F32", 4},    {"C64", 8}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
static_assert(std::size(kTypes) == static_cast<size_t>(SafeType::kU64) + 1);
static_assert(std::endian::native == std::endian::little, "weights are read and written as they stand in memory");

constexpr char kIndexEnd[] = ".safetensors.index.json";

// Bits of an element, of types that are only carried along too.
std::optional<int64_t> bits_of(const std::string& dtype) {
  if (const auto type = safe_type(dtype)) return 8 * width_of(*type);
  if (dtype == "F4") return 4;
  return dtype == "F6_E2M3" || dtype == "F6_E3M2" ? std::optional(int64_t{6}) : std::nullopt;
}

// Whole bytes of so many elements, or nothing.
std::optional<int64_t> bytes_of(const std::vector<int64_t>& dims, int64_t bits) {
  if (std::find(dims.begin(), dims.end(), 0) != dims.end()) return 0;
  for (const int64_t d : dims) {
    if (__builtin_mul_overflow(bits, d, &bits)) return std::nullopt;
  }
  return bits % 8 == 0 ? std::optional(bits / 8) : std::nullopt;
}

// The value of one tensor's key. `where` names file and tensor.
SafeTensor parse_tensor(JsonCursor& json, const std::string& name, const std::string& where) {
  SafeTensor t;
  t.name = name;
  std::optional<std::string> dtype;
  std::optional<std::vector<int64_t>> dims;
  std::vector<int64_t> offsets;
  json.object([&](const std::string& key) {
    if (key == "dtype" && !dtype) {
      dtype = json.string();
    } else if (key == "shape" && !dims) {
      dims.emplace();
      json.list([&] { dims->push_back(json.integer()); });
    } else if (key == "data_offsets" && offsets.empty()) {
      json.list([&] {
        check<DataError>(offsets.size() < 2, where, ": data_offsets must be two numbers");
        offsets.push_back(json.integer());
      });
    } else {
      throw DataError(cat(where, ": field ", key, " is unknown or appears twice"));
    }
  });
  check<DataError>(dtype && dims && offsets.size() == 2, where, " lacks dtype, shape or data_offsets");
  const std::optional<int64_t> bits = bits_of(*dtype);
  check<DataError>(bits.has_value(), where, " has unknown dtype ", *dtype);
  std::string shape;
  for (const int64_t d : *dims) shape += (shape.empty() ? "" : ",") + std::to_string(d);
  const std::optional<int64_t> bytes = bytes_of(*dims, *bits);
  check<DataError>(offsets[1] >= offsets[0] && bytes == offsets[1] - offsets[0], where, ": data_offsets [", offsets[0],
                   ", ", offsets[1], "] are not the bytes of ", *dtype, " (", shape, ")");
  t.begin = offsets[0], t.bytes = *bytes;
  const std::optional<SafeType> type = safe_type(*dtype);
  if (type && dims->size() <= static_cast<size_t>(Shape::kMaxRank)) {
    t.type = *type;
    for (const int64_t d : *dims) t.shape.push_back(d);
  } else {
    t.type = SafeType::kOpaque, t.shape = {t.bytes};
    t.spelled = cat(R"("dtype":")", *dtype, R"(","shape":[)", shape, "]");
  }
  return t;
}

// What a file that is no safetensors is, and what to do.
std::string other_format(std::string_view begin) {
  if (begin.starts_with("version https://git-lfs"))
    return " is a pointer of git-lfs, not the file itself: git lfs pull fetches it";
  if (begin.starts_with("PK\x03\x04") || begin.starts_with("\x80\x02\x8a\x0al"))
    return " is a file of torch.save: scripts/pt_to_safetensors.py makes safetensors of it";
  return "";
}

}  // namespace

const char* name_of(SafeType type) { return kTypes[static_cast<size_t>(type)].name; }
int64_t width_of(SafeType type) { return kTypes[static_cast<size_t>(type)].bytes; }
std::optional<SafeType> safe_type(std::string_view name) {
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    if (name == kTypes[i].name && i != static_cast<size_t>(SafeType::kOpaque)) return static_cast<SafeType>(i);
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
      if (json.null()) return;
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
  std::array<char, 24> begin{};
  const auto head = std::span(begin).first(static_cast<size_t>(std::min<int64_t>(size, begin.size())));
  file.read(std::as_writable_bytes(head), 0);
  uint64_t length = 0;
  std::memcpy(&length, begin.data(), sizeof length);
  const bool legal = length <= static_cast<uint64_t>(std::min(size - 8, kMaxSafetensorsHeader));
  const std::string other = legal ? "" : other_format({head.data(), head.size()});
  check<DataError>(other.empty(), path, other);
  check<DataError>(legal, path, ": its header claims ", length, " bytes; the file has ", size, ", and at most ",
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
  std::string torch;
  for (const auto& e : fs::directory_iterator(path)) {
    const std::string name = e.path().filename().string();
    if (name.ends_with(kIndexEnd)) indexes.push_back(name);
    if (name.ends_with(".safetensors")) names_.push_back(name);
    if (name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth")) torch = name;
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
  check<DataError>(!indexes.empty() || !names_.empty() || torch.empty(), path, " has no *.safetensors; ", torch,
                   " is a file of torch.save: scripts/pt_to_safetensors.py makes safetensors of it");
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
  if (entry.file != current_ && ReadAhead::keeps_blocks(entry.tensor.bytes)) {
    files_[current_]->release();
    current_ = entry.file;
  }
  files_[entry.file]->read(entry.offset + at, out, entry.offset, entry.offset + entry.tensor.bytes);
}

int64_t SafetensorsReader::bytes_read() const {
  int64_t sum = 0;
  for (const auto& file : files_) sum += file->bytes_read();
  return sum;
}

}  // namespace tpo
