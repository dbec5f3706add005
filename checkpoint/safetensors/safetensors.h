#pragma once
// Reads weights in the public safetensors format: one file, or a folder of shards with an index.
// A file is: 8 bytes little-endian N; N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...,
// "__metadata__": {text: text}}, padded with spaces; then the data, to which the offsets refer, without gaps.
// Row-major, little-endian. A sharded folder has one *.safetensors.index.json {"weight_map": {name: file}}; its other
// fields are hints and not used. Source: the format's public description, huggingface/safetensors README. Every lie is
// a DataError that names the file and, where there is one, the tensor. All of a header is checked before any of its
// data is read; memory grows with the header's real bytes, never with a number found in it.
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/read_ahead.h"
#include "core/shape.h"

namespace tpo {

// In the order of the public implementation, which sorts by it.
enum class SafeType : uint8_t {
  kBool,
  kOpaque,  // elements of less than a byte, or more dims than a Shape has: only bytes here
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64
};
const char* name_of(SafeType type);  // "BF16"
int64_t width_of(SafeType type);     // bytes of an element
std::optional<SafeType> safe_type(std::string_view name);
inline bool is_weight(SafeType t) { return t == SafeType::kF16 || t == SafeType::kBF16 || t == SafeType::kF32; }
inline std::ostream& operator<<(std::ostream& out, SafeType t) { return out << name_of(t); }

struct SafeTensor {
  std::string name;
  SafeType type = SafeType::kF32;
  Shape shape;
  int64_t begin = 0, bytes = 0;  // in the file's data
  std::string spelled = {};      // of kOpaque: dtype and shape as a header has them
};

inline constexpr int64_t kMaxSafetensorsHeader = 100'000'000;  // of the public implementation
inline constexpr int64_t kMaxSafetensorsIndex = 64 << 20;

// Checks a header against the length of the data behind it; in the order of the data. `file` begins every message.
std::vector<SafeTensor> parse_safetensors_header(std::string_view json, int64_t data_bytes, const std::string& file);
// The pairs (tensor, file) of an index. File names are plain names in the same folder.
std::map<std::string, std::string> parse_safetensors_index(std::string_view json, const std::string& file);

class SafetensorsReader {
 public:
  struct Entry {
    SafeTensor tensor;
    size_t file = 0;     // of files()
    int64_t offset = 0;  // of its data, from the start of the file
  };
  // `path` is a file, a folder with an index and its shards, or a folder with one *.safetensors. Throws DataError for a
  // lie (an absent shard and a tensor in two shards included), IoError if a file cannot be read.
  explicit SafetensorsReader(const std::string& path);

  const std::map<std::string, Entry>& tensors() const { return tensors_; }
  const std::vector<std::string>& files() const { return names_; }  // plain names, sorted
  int64_t data_bytes() const;
  // Bytes [at, at + out.size()) of a tensor; fast if a tensor is read forwards. One thread.
  void read(const Entry& entry, int64_t at, std::span<std::byte> out);
  int64_t bytes_read() const;  // from the files, by read(), what was read ahead in vain included

 private:
  void open(const std::string& folder, const std::string& name);

  std::vector<std::string> names_;
  std::vector<std::unique_ptr<ReadAhead>> files_;
  size_t current_ = 0;  // the file last read from in blocks: of the others nothing is kept in memory
  std::map<std::string, Entry> tensors_;
};

}  // namespace tpo
