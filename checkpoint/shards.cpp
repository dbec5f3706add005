#include "checkpoint/shards.h"

#include <algorithm>

#include "checkpoint/checksum.h"
#include "core/error.h"

namespace tpo {
namespace {

// Stays in the second-level cache between read, checksum and copy. A rank that wants one element reads a block; all
// checksums of blocks, which every rank of a load gets, are 1 / 32,768 of the bytes.
constexpr int64_t kBuffer = 256 << 10;
constexpr size_t kOpenFiles = 8;

std::string damage(const File& file, const checkpoint::TensorEntry& t, const Part& part, uint64_t found,
                   const std::string& stated) {
  return cat("checkpoint shard ", file.path(), " is damaged: ", text_of(part, shape_of(t)), " of tensor ", t.name(),
             " have checksum ", hex64(found), ", ", stated);
}

}  // namespace

using checkpoint::Piece;
using checkpoint::TensorEntry;

std::vector<PieceRef> in_file_order(const checkpoint::Manifest& manifest,
                                    const std::function<bool(const TensorEntry&)>& wanted) {
  std::vector<PieceRef> refs;
  for (const TensorEntry& t : manifest.tensors()) {
    if (wanted && !wanted(t)) continue;
    for (const Piece& p : t.pieces()) refs.push_back({&t, &p});
  }
  std::stable_sort(refs.begin(), refs.end(), [](const PieceRef& a, const PieceRef& b) {
    return std::pair(a.piece->file(), a.piece->offset()) < std::pair(b.piece->file(), b.piece->offset());
  });
  return refs;
}

Shards::Shards(const checkpoint::Manifest& manifest, const std::string& folder)
    : manifest_(manifest), folder_(folder), buffer_(kBuffer) {}

const File& Shards::file_of(const Piece& p) {
  for (const auto& [number, file] : open_) {
    if (number == p.file()) return *file;
  }
  if (open_.size() == kOpenFiles) open_.erase(open_.begin());
  open_.emplace_back(p.file(),
                     std::make_unique<File>(folder_ + "/" + manifest_.files(p.file()).name(), File::Mode::kRead));
  return *open_.back().second;
}

std::span<std::byte> Shards::read_at(const Piece& p, int64_t at) {
  const auto bytes = std::span(buffer_).first(static_cast<size_t>(std::min(kBuffer, p.bytes() - at)));
  file_of(p).read(bytes, p.offset() + at);
  return bytes;
}

int64_t Shards::blocks_of(const Piece& p) { return (p.bytes() + kBuffer - 1) / kBuffer; }

std::vector<uint64_t> Shards::check_piece(const PieceRef& ref) {
  const Piece& p = *ref.piece;
  Checksum sum;
  std::vector<uint64_t> blocks;
  for (int64_t at = 0; at < p.bytes(); at += kBuffer) {
    const std::span<const std::byte> bytes = read_at(p, at);
    sum.add(bytes);
    blocks.push_back(checksum_of(bytes));
  }
  check<DataError>(sum.value() == p.xxh3(), damage(file_of(p), *ref.tensor, part_of(p, shape_of(*ref.tensor)),
                                                   sum.value(), "the manifest says " + hex64(p.xxh3())));
  return blocks;
}

void Shards::read_blocks(const PieceRef& ref, std::span<const uint64_t> checksums, const Wanted& wanted,
                         const Use& use) {
  const Piece& p = *ref.piece;
  const Part part = part_of(p, shape_of(*ref.tensor));
  const int64_t elements = kBuffer / static_cast<int64_t>(size_of(dtype_of(*ref.tensor)));
  for (size_t i = 0; i < checksums.size(); ++i) {
    const int64_t first = static_cast<int64_t>(i) * elements;
    const Part block{part.rect, part.begin + first, std::min(elements, part.count - first)};
    if (!wanted(block)) continue;
    const std::span<const std::byte> bytes = read_at(p, static_cast<int64_t>(i) * kBuffer);
    const uint64_t found = checksum_of(bytes);
    check<DataError>(found == checksums[i],
                     damage(file_of(p), *ref.tensor, block, found, "a moment ago " + hex64(checksums[i])));
    use(block, bytes.data());
  }
}

void Shards::read_run(const TensorEntry& t, int64_t begin, std::span<std::byte> out) {
  const Shape full = shape_of(t);
  const int64_t size = static_cast<int64_t>(size_of(dtype_of(t)));
  const Part run{whole_of(full), begin, static_cast<int64_t>(out.size()) / size};
  for (const Piece& p : t.pieces()) {
    const Part part = part_of(p, full);
    if (!overlap(part, run)) continue;
    // What a piece has of a row-major run stands together in the piece, in the same order.
    const auto [first, last] = common_range(part, run);
    const int64_t most = kBuffer / size;
    for (int64_t at = first; at < last; at += most) {
      const Part stretch{part.rect, part.begin + at, std::min(most, last - at)};
      file_of(p).read(std::span(buffer_).first(stretch.count * size), p.offset() + at * size);
      copy_common(stretch, buffer_.data(), run, out.data(), size);
    }
  }
}

}  // namespace tpo
