#include "data/dataset.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "data/decode/image.h"

namespace tpo {
namespace {

constexpr const char* kManifest = "manifest.textproto";
constexpr uint32_t kManifestVersion = 1;

std::span<const std::byte> bytes_of(std::string_view s) {
  return std::as_bytes(std::span<const char>(s.data(), s.size()));
}

bool known_task(std::string_view t) { return t == "conversation" || t == "region" || t == "temporal" || t == "mask"; }

// Keeps the first message of the text format parser.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column, const std::string& message) override {
    if (text.empty()) text = cat("line ", line + 1, " column ", column + 1, ": ", message);
  }
  std::string text;
};

data::DatasetManifest parse_manifest(const std::string& path, const std::string& text) {
  data::DatasetManifest m;
  google::protobuf::TextFormat::Parser parser;
  FirstError error;
  parser.RecordErrorsTo(&error);
  check<DataError>(parser.ParseFromString(text, &m), "manifest ", path, " ", error.text);
  check<DataError>(m.format_version() == kManifestVersion, "manifest ", path, " has format_version ",
                   m.format_version(), ", this program reads version ", kManifestVersion);
  check<DataError>(known_task(m.task()), "manifest ", path, " has task '", m.task(),
                   "', expected conversation, region, temporal or mask");
  check<DataError>(m.shards_size() > 0, "manifest ", path, " lists no shards");
  int64_t sum = 0;
  for (const auto& s : m.shards()) {
    check<DataError>(s.records() >= 0 && !s.file().empty() && s.file().find('/') == std::string::npos, "manifest ",
                     path, " has a bad shard entry '", s.file(), "' with ", s.records(), " records");
    sum += s.records();
  }
  check<DataError>(sum == m.samples(), "manifest ", path, " promises ", m.samples(), " samples but its shards hold ",
                   sum);
  return m;
}

data::Sample parse(const ByteBuffer& bytes, const ShardReader& shard, int64_t record) {
  data::Sample sample;
  check<DataError>(sample.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())), "shard ", shard.path(),
                   " record ", record, " is not a Sample message");
  return sample;
}

}  // namespace

std::span<const std::byte> RawSample::frame(int m, int f) const {
  uint64_t start = 0;
  for (int i = 0; i < m; ++i) {
    for (uint32_t n : sample.media(i).frame_bytes()) start += n;
  }
  for (int i = 0; i < f; ++i) start += sample.media(m).frame_bytes(i);
  const uint64_t n = sample.media(m).frame_bytes(f);
  check<DataError>(start <= media.size() && n <= media.size() - start, "sample '", sample.id(), "': frame ", f,
                   " of media ", m, " lies outside the media bytes");
  return media.view().subspan(start, n);
}

data::DatasetManifest read_manifest(const std::string& folder) {
  const std::string path = cat(folder, "/", kManifest);
  return parse_manifest(path, read_file(path, 1 << 28));
}

DatasetFolder::DatasetFolder(const std::string& folder, ShardReader::Checksums checksums) : folder_(folder) {
  const std::string path = cat(folder, "/", kManifest), text = read_file(path, 1 << 28);
  manifest_ = parse_manifest(path, text);
  manifest_hash_ = xxh3(text);
  starts_.push_back(0);
  for (const auto& s : manifest_.shards()) {
    const std::string file = cat(folder, "/", s.file());
    std::error_code ec;
    const uint64_t bytes = std::filesystem::file_size(file, ec);
    check<DataError>(!ec, "shard ", file, " is missing (listed in ", path, ")");
    check<DataError>(bytes == s.bytes(), "shard ", file, " has ", bytes, " bytes, ", path, " promises ", s.bytes(),
                     bytes < s.bytes() ? ": truncated" : "");
    shards_.emplace_back(file, checksums);
    check<DataError>(shards_.back().size() == s.records(), "shard ", file, " has ", shards_.back().size(), " records, ",
                     path, " promises ", s.records());
    starts_.push_back(starts_.back() + s.records());
  }
}

std::pair<const ShardReader*, int64_t> DatasetFolder::find(int64_t i) const {
  check<DataError>(i >= 0 && i < size(), "dataset ", folder_, " has samples 0..", size() - 1, ", not ", i);
  const size_t s = static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), i) - starts_.begin() - 1);
  return {&shards_[s], i - starts_[s]};
}

RawSample DatasetFolder::read(int64_t i) const {
  const auto [shard, at] = find(i);
  Record record = shard->read(at);
  return {parse(record.sample, *shard, at), std::move(record.media)};
}

data::Sample DatasetFolder::read_sample(int64_t i) const {
  const auto [shard, at] = find(i);
  ByteBuffer bytes;
  shard->read_sample(at, bytes);
  return parse(bytes, *shard, at);
}

std::vector<std::string> DatasetFolder::verify(const std::function<void(int64_t, int64_t)>& progress) const {
  std::vector<std::string> problems;
  std::set<std::string> ids;
  const auto attempt = [&](auto&& body) {
    try {
      body();
    } catch (const Error& e) {
      problems.push_back(e.what());
    }
  };
  for (size_t s = 0; s < shards_.size(); ++s) {
    attempt([&] {
      const uint64_t hash = shards_[s].hash_file(), want = manifest_.shards(static_cast<int>(s)).xxh3();
      check<DataError>(hash == want, "shard ", shards_[s].path(),
                       ": checksum of the whole file differs from the manifest");
    });
  }
  for (int64_t i = 0; i < size(); ++i) {
    attempt([&] {
      const RawSample raw = read(i);
      check_sample(raw.sample, raw.media.size());
      check<DataError>(ids.insert(raw.sample.id()).second, "sample '", raw.sample.id(), "' (number ", i,
                       ") appears twice");
      for (int m = 0; m < raw.sample.media_size(); ++m) {
        const data::Media& media = raw.sample.media(m);
        for (int f = 0; f < media.frame_bytes_size(); ++f) {
          const std::string where = cat("sample '", raw.sample.id(), "' media ", m, " frame ", f);
          const ImageSize size = image_size(raw.frame(m, f), where);
          check<DataError>(size.width == media.width() && size.height == media.height(), where, " is ", size.width,
                           " x ", size.height, ", its record says ", media.width(), " x ", media.height());
        }
      }
    });
    if (progress) progress(i + 1, size());
  }
  return problems;
}

DatasetWriter::DatasetWriter(std::string folder, std::string name, std::string task, std::string source)
    : DatasetWriter(std::move(folder), std::move(name), std::move(task), std::move(source), Options{}) {}

DatasetWriter::DatasetWriter(std::string folder, std::string name, std::string task, std::string source,
                             Options options)
    : folder_(std::move(folder)), options_(options) {
  check<DataError>(known_task(task), "dataset ", name, " has task '", task,
                   "', expected conversation, region, temporal or mask");
  std::error_code ec;
  std::filesystem::create_directories(folder_, ec);
  check<IoError>(!ec, "cannot create folder ", folder_, ": ", ec.message());
  check<DataError>(!std::filesystem::exists(cat(folder_, "/", kManifest)), "folder ", folder_,
                   " already holds a dataset; remove it or choose another folder");
  manifest_.set_format_version(kManifestVersion);
  manifest_.set_name(std::move(name));
  manifest_.set_task(std::move(task));
  manifest_.set_source(std::move(source));
}

DatasetWriter::~DatasetWriter() = default;

void DatasetWriter::add(const data::Sample& sample, std::span<const std::byte> media) {
  check_sample(sample, media.size());
  std::string text;
  TPO_ASSERT(sample.SerializeToString(&text));
  check<DataError>(ids_.insert(xxh3(sample.id())).second, "sample '", sample.id(),
                   "' was added before: ids must differ");
  if (shard_ == nullptr) {
    char file[32];
    std::snprintf(file, sizeof file, "shard-%05d.h5", manifest_.shards_size());
    manifest_.add_shards()->set_file(file);
    shard_ = std::make_unique<ShardWriter>(cat(folder_, "/", file));
  }
  shard_->add(bytes_of(text), media);
  manifest_.set_samples(manifest_.samples() + 1);
  if (shard_->bytes() >= options_.shard_bytes) close_shard();
}

void DatasetWriter::close_shard() {
  shard_->finish();
  auto& entry = *manifest_.mutable_shards(manifest_.shards_size() - 1);
  const InputFile written(cat(folder_, "/", entry.file()));
  entry.set_records(shard_->records());
  entry.set_bytes(written.size());
  entry.set_xxh3(written.hash_all());
  shard_.reset();
}

void DatasetWriter::finish() {
  check<DataError>(samples() > 0, "dataset ", manifest_.name(), " has no samples; nothing was written to ", folder_);
  if (shard_ != nullptr) close_shard();
  std::string text;
  TPO_ASSERT(google::protobuf::TextFormat::PrintToString(manifest_, &text));
  replace_file(cat(folder_, "/", kManifest), bytes_of(text));
}

}  // namespace tpo
