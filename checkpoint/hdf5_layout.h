#pragma once
// Lays out a shard file with HDF5 and hands back where the bytes of each dataset belong. The only user of HDF5 here.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"

namespace tpo {

struct DatasetLayout {
  std::string name;  // without '/'
  DType dtype = DType::kF32;
  Shape shape;
};

// Upper mark of the file's length: data, alignment, headers and the name index.
int64_t shard_bytes(std::span<const DatasetLayout> datasets);

// Creates the file with allocated but unwritten datasets and closes it. Result: per dataset the byte offset of its
// data, a multiple of 4,096 if they have that many bytes; all of numel * element size bytes from there belong to it
// alone. Requires: numel > 0 for each. Throws IoError with the path, the bytes and HDF5's innermost reason.
std::vector<int64_t> create_shard(const std::string& path, std::span<const DatasetLayout> datasets);

struct PlacedDataset {
  std::string name;
  int64_t offset = 0, bytes = 0;
};

// Opens the file with HDF5. Returns one sentence if it cannot, or else for each dataset that is missing or elsewhere.
std::vector<std::string> faults_of_shard(const std::string& path, std::span<const PlacedDataset> wanted);

}  // namespace tpo
