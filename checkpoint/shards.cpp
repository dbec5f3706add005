#include "checkpoint/shards.h"

#include <algorithm>

#include "checkpoint/checksum.h"
#include "core/error.h"

namespace tpo {
namespace {

constexpr int64_t kBuffer = 1 << 20;  // stays in the second-level cache between read, checksum and copy

}  // namespace

using checkpoint::Piece;
using checkpoint::TensorEntry;

Shards::Shards(const checkpoint::Manifest& manifest, const std::string& folder)
    : manifest_(manifest), folder_(folder), files_(manifest.files_size()), buffer_(kBuffer) {}

const File& Shards::file_of(const Piece& p) {
  std::unique_ptr<File>& file = files_[p.file()];
  if (!file) file = std::make_unique<File>(folder_ + "/" + manifest_.files(p.file()).name(), File::Mode::kRead);
  return *file;
}

void Shards::read(const TensorEntry& t, const Piece& p, const Use& use) {
  const File& file = file_of(p);
  const Shape full = shape_of(t);
  const Part part = part_of(p, full);
  const int64_t size = static_cast<int64_t>(size_of(dtype_of(t)));
  Checksum sum;
  for (int64_t at = 0; at < p.bytes(); at += kBuffer) {
    const auto bytes = std::span(buffer_).first(std::min(kBuffer, p.bytes() - at));
    file.read(bytes, p.offset() + at);
    sum.add(bytes);
    if (use) use({part.rect, part.begin + at / size, static_cast<int64_t>(bytes.size()) / size}, bytes.data());
  }
  check<DataError>(sum.value() == p.xxh3(), "checkpoint shard ", file.path(), " is damaged: ", text_of(part, full),
                   " of tensor ", t.name(), " have checksum ", hex64(sum.value()), ", the manifest says ",
                   hex64(p.xxh3()));
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
