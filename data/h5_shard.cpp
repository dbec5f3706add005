#include "data/h5_shard.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "core/error.h"
#include "data/h5_file.h"

namespace tpo {
namespace {

constexpr std::array<const char*, 2> kFields{"sample", "media"};

uint64_t align_up(uint64_t n) { return (n + kRecordAlign - 1) / kRecordAlign * kRecordAlign; }

std::span<const std::byte> bytes_of(const std::vector<uint64_t>& v) {
  return std::as_bytes(std::span<const uint64_t>(v));
}

// A read-only mapping of part of a file.
class Mapping {
 public:
  Mapping() = default;
  Mapping(const std::string& path, uint64_t offset, uint64_t bytes) {
    if (bytes == 0) return;
    const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)), begin = offset / page * page;
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    check<IoError>(fd >= 0, "cannot open ", path, ": ", std::strerror(errno));
    length_ = bytes + (offset - begin);
    base_ = ::mmap(nullptr, length_, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(begin));
    ::close(fd);
    if (base_ == MAP_FAILED) base_ = nullptr;
    check<IoError>(base_ != nullptr, "cannot map the index of ", path, ": ", std::strerror(errno));
    data_ = reinterpret_cast<const uint64_t*>(static_cast<const std::byte*>(base_) + (offset - begin));
  }
  Mapping(Mapping&& o) noexcept { *this = std::move(o); }
  Mapping& operator=(Mapping&& o) noexcept {
    std::swap(base_, o.base_), std::swap(length_, o.length_), std::swap(data_, o.data_);
    return *this;
  }
  ~Mapping() {
    if (base_ != nullptr) ::munmap(base_, length_);
  }
  const uint64_t* data() const { return data_; }

 private:
  void* base_ = nullptr;
  size_t length_ = 0;
  const uint64_t* data_ = nullptr;
};

}  // namespace

ShardWriter::ShardWriter(std::string path) : path_(std::move(path)) {}

void ShardWriter::Field::add(std::span<const std::byte> bytes) {
  blob.resize(align_up(blob.size()));
  index.insert(index.end(), {blob.size(), bytes.size(), xxh3(bytes)});
  blob.insert(blob.end(), bytes.begin(), bytes.end());
}

void ShardWriter::add(std::span<const std::byte> sample, std::span<const std::byte> media) {
  fields_[0].add(sample);
  fields_[1].add(media);
}

void ShardWriter::finish() {
  H5Contents plan;
  const uint64_t n = static_cast<uint64_t>(records());
  plan.texts["format"] = "tpo-shard";
  plan.numbers["format_version"] = kShardVersion;
  plan.numbers["records"] = n;
  for (size_t f = 0; f < fields_.size(); ++f) {
    const std::string name = kFields[f];
    plan.numbers[name + "_index_xxh3"] = xxh3(bytes_of(fields_[f].index));
    plan.datasets[name + "_bytes"] = {H5Dataset::Type::kU8, {fields_[f].blob.size()}, 0};
    plan.datasets[name + "_index"] = {H5Dataset::Type::kU64, {n, 3}, 0};
  }
  try {
    replace_file(path_, [&](const std::string& temporary) {
      H5Contents laid = h5_create(temporary, plan);
      std::vector<Piece> pieces;
      for (size_t f = 0; f < fields_.size(); ++f) {
        const std::string name = kFields[f];
        pieces.push_back({laid.datasets.at(name + "_bytes").offset, fields_[f].blob});
        pieces.push_back({laid.datasets.at(name + "_index").offset, bytes_of(fields_[f].index)});
      }
      write_pieces(temporary, pieces);
    });
  } catch (const IoError& e) {
    throw IoError(cat("shard ", path_, " was not written: ", e.what()));
  }
}

struct ShardReader::Impl {
  struct Field {
    uint64_t offset = 0, bytes = 0;  // of the blob in the file
    Mapping index;                   // (N, 3) start, length, XXH3
  };
  InputFile file;
  Checksums checksums;
  int64_t records = 0;
  std::array<Field, 2> fields;

  Impl(const std::string& path, Checksums c) : file(path), checksums(c) {}

  void open_field(size_t f, const H5Contents& h5) {
    const std::string name = kFields[f], &path = file.path();
    const auto number = h5.numbers.find(name + "_index_xxh3");
    const auto blob = h5.datasets.find(name + "_bytes"), index = h5.datasets.find(name + "_index");
    check<DataError>(number != h5.numbers.end() && blob != h5.datasets.end() && index != h5.datasets.end(), "shard ",
                     path, " lacks the parts of field ", name, " (", name, "_bytes, ", name, "_index, ", name,
                     "_index_xxh3)");
    const H5Dataset &b = blob->second, &x = index->second;
    check<DataError>(b.type == H5Dataset::Type::kU8 && b.dims.size() == 1 && x.type == H5Dataset::Type::kU64 &&
                         x.dims == std::vector<uint64_t>{static_cast<uint64_t>(records), 3},
                     "shard ", path, ": ", name, "_bytes must be u8 (B) and ", name, "_index u64 (", records, ", 3)");
    for (const H5Dataset* d : {&b, &x}) {
      check<DataError>(d->bytes() <= file.size() && d->offset <= file.size() - d->bytes() && d->offset % 8 == 0,
                       "shard ", path, " is truncated: field ", name, " ends past the file's ", file.size(), " bytes");
    }
    fields[f].offset = b.offset;
    fields[f].bytes = b.bytes();
    fields[f].index = Mapping(path, x.offset, x.bytes());
    const uint64_t hash = xxh3(std::as_bytes(std::span(fields[f].index.data(), static_cast<size_t>(records) * 3)));
    check<DataError>(hash == number->second, "shard ", path, ": the index of field ", name,
                     " is damaged (checksum differs)");
  }

  void read_field(size_t f, int64_t i, ByteBuffer& out) const {
    const Field& field = fields[f];
    const uint64_t* entry = field.index.data() + 3 * i;
    const uint64_t start = entry[0], length = entry[1];
    check<DataError>(length <= field.bytes && start <= field.bytes - length, "shard ", file.path(), " record ", i,
                     " field ", kFields[f], ": bytes ", start, " + ", length, " lie outside the blob of ", field.bytes);
    out.resize(length);
    file.read(field.offset + start, {out.data(), length});
    check<DataError>(checksums == Checksums::kSkip || xxh3(out.view()) == entry[2], "shard ", file.path(), " record ",
                     i, " field ", kFields[f], " is damaged (checksum differs)");
  }
};

ShardReader::ShardReader(const std::string& path, Checksums checksums) {
  const H5Contents h5 = h5_inspect(path);
  impl_ = std::make_unique<Impl>(path, checksums);
  const auto format = h5.texts.find("format");
  check<DataError>(format != h5.texts.end() && format->second == "tpo-shard", "file ", path,
                   " is HDF5 but not a shard (its attribute format is not tpo-shard)");
  const auto version = h5.numbers.find("format_version"), records = h5.numbers.find("records");
  check<DataError>(version != h5.numbers.end() && records != h5.numbers.end() && records->second < (uint64_t{1} << 40),
                   "shard ", path, " lacks format_version or records");
  check<DataError>(version->second == kShardVersion, "shard ", path, " has format version ", version->second,
                   ", this program reads version ", kShardVersion);
  impl_->records = static_cast<int64_t>(records->second);
  for (size_t f = 0; f < kFields.size(); ++f) impl_->open_field(f, h5);
}

ShardReader::~ShardReader() = default;
ShardReader::ShardReader(ShardReader&&) noexcept = default;

int64_t ShardReader::size() const { return impl_->records; }
const std::string& ShardReader::path() const { return impl_->file.path(); }
uint64_t ShardReader::file_bytes() const { return impl_->file.size(); }
uint64_t ShardReader::hash_file() const { return impl_->file.hash_all(); }

void ShardReader::read_sample(int64_t i, ByteBuffer& out) const {
  check<DataError>(i >= 0 && i < impl_->records, "shard ", path(), " has records 0..", impl_->records - 1, ", not ", i);
  impl_->read_field(0, i, out);
}

void ShardReader::read(int64_t i, Record& out) const {
  read_sample(i, out.sample);
  impl_->read_field(1, i, out.media);
}

Record ShardReader::read(int64_t i) const {
  Record out;
  read(i, out);
  return out;
}

}  // namespace tpo
