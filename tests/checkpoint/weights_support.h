#pragma once
// Small public checkpoints for the tests: every name of a layout, random bytes.
#include <map>

#include "checkpoint/safetensors/writer.h"
#include "checkpoint/weights/plan.h"
#include "core/rng.h"
#include "tests/checkpoint/checkpoint_support.h"

namespace tpo {

using Names = std::vector<NamedShape>;

// Every row of a layout once, with layer 3, and ours for it, at small shapes that its transform allows.
struct Example {
  Names theirs, ours;
};
inline Example example_of(const Layout& layout) {
  Example e;
  std::map<std::string, Shape> ours;
  const auto put = [&](const MapRow& row, const Shape& mine, const Shape& yours) {
    const std::string name = fill_name(row.ours, std::vector<std::string>(1, "3"));
    const auto [it, first] = ours.try_emplace(name, mine);
    if (first) e.ours.push_back({name, mine});
    e.theirs.push_back({fill_name(row.theirs, std::vector<std::string>(1, "3")), yours});
  };
  for (const MapRow& row : layout.rows) {
    if (row.import_only) continue;
    switch (row.how) {
      case MapRow::How::kSame:
        put(row, {20, 4}, {20, 4});
        break;
      case MapRow::How::kLeadingOne:
        put(row, {2, 4}, {1, 2, 4});
        break;
      case MapRow::How::kPatches:
        put(row, {5, 12}, row.dims == 5 ? Shape{5, 3, 1, 2, 2} : Shape{5, 3, 2, 2});
        break;
      case MapRow::How::kZeros:
        e.theirs.push_back({row.theirs, {row.rows, 4}});
        break;
      case MapRow::How::kGrown:
        put(row, {20, 4}, {20 - row.added, 4});
        break;
      case MapRow::How::kCounting:
        put(row, {20, 4}, {1, 20});
        break;
      default:
        e.theirs.push_back({row.theirs, {3}});
    }
  }
  return e;
}

// Bytes of a tensor by its name: any bits, NaNs and infinities among them; position_ids count.
inline std::string random_bytes(const std::string& name, SafeType type, const Shape& shape) {
  std::string bytes(static_cast<size_t>(shape.numel() * width_of(type)), '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(mix64(hash_name(name) + i) & 255);
  for (int64_t i = 0; type == SafeType::kI64 && i < shape.numel(); ++i) std::memcpy(bytes.data() + 8 * i, &i, 8);
  return bytes;
}

// Writes such a checkpoint; a * in a name becomes "x".
inline void write_random(const std::string& folder, const Names& theirs, SafeType type, int64_t shard_bytes) {
  std::vector<TensorToWrite> tensors;
  for (const NamedShape& t : theirs) {
    std::string name = t.name;
    std::replace(name.begin(), name.end(), '*', 'x'), std::replace(name.begin(), name.end(), '#', '3');
    tensors.push_back({name, name.ends_with("position_ids") ? SafeType::kI64 : type, t.shape, 0});
  }
  assign_shards(tensors, shard_bytes);
  write_safetensors(folder, tensors, [&](size_t i, int64_t at, std::span<std::byte> to) {
    const std::string bytes = random_bytes(tensors[i].name, tensors[i].type, tensors[i].shape);
    std::memcpy(to.data(), bytes.data() + at, to.size());
  });
}

}  // namespace tpo
