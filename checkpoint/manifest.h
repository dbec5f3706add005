#pragma once
// The manifest as text and as checked fields. Everything read here is foreign: parse_manifest checks every rule that
// FORMAT.md states, so that later code may index without asking.
#include <cstdint>
#include <limits>
#include <string>

#include "checkpoint/manifest.pb.h"
#include "checkpoint/part.h"
#include "core/dtype.h"
#include "core/shape.h"

namespace tpo {

inline constexpr int kCheckpointVersion = 2;        // written, whatever the layout
inline constexpr int kOldestCheckpointVersion = 1;  // read, as all between
inline constexpr char kManifestName[] = "manifest.textproto";
inline constexpr int64_t kMaxManifestBytes = std::numeric_limits<int32_t>::max();  // protobuf reads no more

// Throws ConfigError if it would be longer than `most`.
std::string manifest_text(const checkpoint::Manifest& manifest, int64_t most = kMaxManifestBytes);
// Throws DataError that begins with `path` if the text breaks any rule.
checkpoint::Manifest parse_manifest(std::string text, const std::string& path);
// Of a checkpoint folder. Throws IoError, DataError; one whose name is that of another step is damaged too.
checkpoint::Manifest read_checkpoint_manifest(const std::string& folder);
// Time of creation from the first lines of the manifest alone, which are not checked; 0 if they do not have it.
int64_t created_unix_ns(const std::string& folder);
// Throws DataError naming the first shard file that is missing or has another length than the manifest says.
void check_shard_files(const checkpoint::Manifest& manifest, const std::string& folder);

Shape shape_of(const checkpoint::TensorEntry& entry);
DType dtype_of(const checkpoint::TensorEntry& entry);
// The elements of a piece of a tensor of that shape, and a piece with these elements and nothing else set.
Part part_of(const checkpoint::Piece& piece, const Shape& full);
checkpoint::Piece piece_of(const Part& part, const Shape& full);

}  // namespace tpo
