#pragma once
// Reads pieces from the shard files of one checkpoint, with their checksums.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/file_io.h"
#include "checkpoint/manifest.h"

namespace tpo {

// A piece with its tensor.
struct PieceRef {
  const checkpoint::TensorEntry* tensor = nullptr;
  const checkpoint::Piece* piece = nullptr;
};
// The pieces of the tensors that `wanted` takes (empty: of all), by file and offset: in this order a reader opens each
// file once and goes through it forwards.
std::vector<PieceRef> in_file_order(const checkpoint::Manifest& manifest,
                                    const std::function<bool(const checkpoint::TensorEntry&)>& wanted = {});

// Keeps at most 8 files open, however many there are, and one buffer of 256 KiB, which is also what a block is: pieces
// are read in blocks, each with a checksum of its own. Requires: the manifest was parsed and outlives this.
// Thread rule: one thread uses a Shards.
class Shards {
 public:
  Shards(const checkpoint::Manifest& manifest, const std::string& folder);

  static int64_t blocks_of(const checkpoint::Piece& p);
  // Reads a piece and checks its checksum. Returns the checksum of each block. Throws DataError naming file, elements
  // and tensor; IoError.
  std::vector<uint64_t> check_piece(const PieceRef& ref);
  // Of a piece whose blocks have these checksums, reads those blocks that `wanted` takes, checks them and hands each
  // (what of the tensor it is, its bytes) to `use`. Throws as check_piece does.
  using Wanted = std::function<bool(const Part& block)>;
  using Use = std::function<void(const Part& block, const std::byte* bytes)>;
  void read_blocks(const PieceRef& ref, std::span<const uint64_t> checksums, const Wanted& wanted, const Use& use);
  // The elements of the tensor in [begin, begin + out.size() / element size), row-major. Checksums are not looked at.
  void read_run(const checkpoint::TensorEntry& t, int64_t begin, std::span<std::byte> out);

 private:
  const File& file_of(const checkpoint::Piece& p);
  std::span<std::byte> read_at(const checkpoint::Piece& p, int64_t at);  // the block of the piece that begins there

  const checkpoint::Manifest& manifest_;
  const std::string folder_;
  std::vector<std::pair<int, std::unique_ptr<File>>> open_;  // with their numbers, in the order of opening
  std::vector<std::byte> buffer_;
};

}  // namespace tpo
