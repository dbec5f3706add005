#pragma once
// The only user of HDF5 in this folder. HDF5 lays a file out and reports where its datasets lie; bulk bytes are then
// moved by pread and pwrite, since the library holds one global lock. Both calls are serialized by a mutex and
// thread-safe.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace tpo {

// A contiguous dataset of bytes or of u64. `offset` is from the start of the file; 0 when the dataset is empty.
struct H5Dataset {
  enum class Type { kU8, kU64 };
  Type type = Type::kU8;
  std::vector<uint64_t> dims;
  uint64_t offset = 0;

  uint64_t bytes() const {
    uint64_t n = type == Type::kU8 ? 1 : 8;
    for (uint64_t d : dims) n *= d;
    return n;
  }
};

struct H5Contents {
  std::map<std::string, uint64_t> numbers;    // scalar attributes of the root
  std::map<std::string, std::string> texts;   // string attributes of the root
  std::map<std::string, H5Dataset> datasets;  // of the root group
};

// Creates the file with early allocated, unfilled, 64-byte aligned contiguous datasets and closes it; returns the
// contents with the offsets filled in. Throws IoError naming the file; a file that could not be completed is removed.
H5Contents h5_create(const std::string& path, H5Contents contents);

// Reads attributes and dataset positions. Datasets that are not contiguous or not u8/u64 throw DataError, as does a
// file that is missing, truncated or not HDF5; the message names the file.
H5Contents h5_inspect(const std::string& path);

}  // namespace tpo
