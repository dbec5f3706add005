#pragma once
// Reads pieces from the shard files of one checkpoint, with their checksums.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/file_io.h"
#include "checkpoint/manifest.h"

namespace tpo {

// Opens each file on first use; keeps one buffer of 1 MiB. Requires: the manifest was parsed and outlives this.
// Thread rule: one thread uses a Shards.
class Shards {
 public:
  Shards(const checkpoint::Manifest& manifest, const std::string& folder);

  // Reads a piece, hands each stretch of it (what of the tensor it is, its bytes) to `use`, which may be empty, and
  // checks the checksum at the end. Throws DataError naming file, elements and tensor; IoError.
  using Use = std::function<void(const Part& stretch, const std::byte* bytes)>;
  void read(const checkpoint::TensorEntry& t, const checkpoint::Piece& p, const Use& use);
  // The elements of the tensor in [begin, begin + out.size() / element size), row-major. Checksums are not looked at.
  void read_run(const checkpoint::TensorEntry& t, int64_t begin, std::span<std::byte> out);

 private:
  const File& file_of(const checkpoint::Piece& p);

  const checkpoint::Manifest& manifest_;
  const std::string folder_;
  std::vector<std::unique_ptr<File>> files_;
  std::vector<std::byte> buffer_;
};

}  // namespace tpo
