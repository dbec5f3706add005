#pragma once
// A dataset folder: manifest.textproto and its shards. Reading, writing, verifying. Formats: FORMAT.md, sample.proto.
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "data/h5_shard.h"
#include "data/sample.pb.h"

namespace tpo {

// A sample with its encoded pictures.
struct RawSample {
  data::Sample sample;
  ByteBuffer media;
  // Encoded bytes of frame f of media m. Requires a sample that passed check_sample.
  std::span<const std::byte> frame(int m, int f) const;
};

// The rules a sample must keep: id present; frame_bytes add up to media_bytes; sizes positive; boxes ordered and within
// [0, 1] and of a media that exists; marks in the text match the box lists of their turn; spans ordered; mask runs fill
// their mask. Throws DataError naming the sample and the field.
void check_sample(const data::Sample& sample, uint64_t media_bytes);

class DatasetFolder {
 public:
  // Reads the manifest and opens all shards. Throws DataError naming the file: no manifest, unknown version or field,
  // missing shard, sizes that differ from the manifest.
  explicit DatasetFolder(const std::string& folder, ShardReader::Checksums checksums = ShardReader::Checksums::kCheck);

  const std::string& folder() const { return folder_; }
  const data::DatasetManifest& manifest() const { return manifest_; }
  uint64_t manifest_hash() const { return manifest_hash_; }  // of the file's bytes
  const std::string& name() const { return manifest_.name(); }
  const std::string& task() const { return manifest_.task(); }
  int64_t size() const { return starts_.back(); }

  // Thread-safe. Throws DataError naming shard and record for damaged bytes or an unreadable protobuf message.
  RawSample read(int64_t i) const;
  data::Sample read_sample(int64_t i) const;  // the same without the bytes of its media

  // Reads everything: whole-file checksums, every record, check_sample, and decodes picture headers. Returns one line
  // per problem (empty: all is well), and goes on after the first. progress(done, total) is called per record; may be
  // empty.
  std::vector<std::string> verify(const std::function<void(int64_t, int64_t)>& progress = {}) const;

 private:
  // Shard of sample i and its record there.
  std::pair<const ShardReader*, int64_t> find(int64_t i) const;

  std::string folder_;
  data::DatasetManifest manifest_;
  uint64_t manifest_hash_ = 0;
  std::vector<ShardReader> shards_;
  std::vector<int64_t> starts_;  // first record of each shard, then the total
};

// Writes a dataset folder: add() samples, then finish(). Not thread-safe. The manifest is written by finish() and last,
// so an interrupted writer leaves a folder that no reader takes for a dataset.
class DatasetWriter {
 public:
  struct Options {
    uint64_t shard_bytes =
        uint64_t{128} << 20;  // a new shard starts when the blobs pass this; also the writer's memory
  };
  // Creates the folder. Throws IoError if it cannot, DataError if a manifest is already there or the task is unknown.
  // task: conversation | region | temporal | mask. source: command or importer, for the manifest.
  DatasetWriter(std::string folder, std::string name, std::string task, std::string source);
  DatasetWriter(std::string folder, std::string name, std::string task, std::string source, Options options);
  ~DatasetWriter();

  // media: all frames of all media, back to back. Throws what check_sample throws, DataError for an id that was added
  // before.
  void add(const data::Sample& sample, std::span<const std::byte> media);
  int64_t samples() const { return manifest_.samples(); }
  void finish();  // Throws IoError naming the file (full disk); DataError if no sample was added.

 private:
  void close_shard();

  std::string folder_;
  Options options_;
  data::DatasetManifest manifest_;
  std::unique_ptr<ShardWriter> shard_;
  std::unordered_set<uint64_t> ids_;  // hashes
};

// "manifest.textproto" of the folder, parsed and checked. Throws DataError.
data::DatasetManifest read_manifest(const std::string& folder);

}  // namespace tpo
