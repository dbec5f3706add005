#pragma once
// One shard: N records of two byte fields, `sample` (protobuf) and `media` (encoded pictures). The layout is in
// FORMAT.md.
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/bytes.h"

namespace tpo {

constexpr uint64_t kShardVersion = 1;
constexpr uint64_t kRecordAlign = 64;  // a cache line, and the width of AVX-512 loads

struct Record {
  ByteBuffer sample, media;
};

// Collects records in memory and writes them on finish(), so the memory it needs is the size of the shard (see
// DatasetWriter::Options::shard_bytes). Not thread-safe. Destroyed before finish() it leaves nothing behind.
class ShardWriter {
 public:
  explicit ShardWriter(std::string path);

  void add(std::span<const std::byte> sample, std::span<const std::byte> media);
  int64_t records() const { return static_cast<int64_t>(fields_[0].index.size() / 3); }
  uint64_t bytes() const { return fields_[0].blob.size() + fields_[1].blob.size(); }  // of the two blobs

  // Writes to a temporary name, syncs and renames. Throws IoError naming the file (full disk, no permission); then the
  // final name does not exist, or still holds the file that was there before.
  void finish();

 private:
  struct Field {
    std::vector<std::byte> blob;
    std::vector<uint64_t> index;  // (N, 3) start, length, XXH3
    void add(std::span<const std::byte> bytes);
  };
  std::string path_;
  std::array<Field, 2> fields_;  // sample, media
};

// Read access to a shard. Const functions are thread-safe: they use pread. The index tables are mapped, not copied, so
// ranks of a node share their pages. The file must not be cut short while it is open.
class ShardReader {
 public:
  enum class Checksums { kCheck, kSkip };

  // Throws DataError naming the file when it is missing, truncated, of another version or damaged in its metadata or
  // index.
  explicit ShardReader(const std::string& path, Checksums checksums = Checksums::kCheck);
  ~ShardReader();
  ShardReader(ShardReader&&) noexcept;

  int64_t size() const;
  const std::string& path() const;
  uint64_t file_bytes() const;
  // Reads record i into `out`, whose buffers are reused. Throws DataError naming file, record and field if a checksum
  // differs or the index is out of range.
  void read(int64_t i, Record& out) const;
  Record read(int64_t i) const;
  void read_sample(int64_t i, ByteBuffer& out) const;  // the sample without its media
  uint64_t hash_file() const;                          // XXH3 of the whole file, as in the manifest

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tpo
