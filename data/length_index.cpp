#include "data/length_index.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "core/error.h"

namespace tpo {
namespace {

constexpr std::string_view kMagic = "TPOLENS3";
constexpr size_t kHeader = 24, kListed = 20;
static_assert(sizeof(LengthEntry) == 36);

uint64_t key_of(const DatasetFolder& dataset, const Templates& templates) {
  return xxh3(cat("lengths ", templates.fingerprint(), " ", dataset.manifest_hash()));
}

uint64_t u64_at(const std::string& bytes, size_t at) {
  uint64_t v = 0;
  std::memcpy(&v, bytes.data() + at, 8);
  return v;
}

void append_u64(std::string& bytes, uint64_t v) { bytes.append(reinterpret_cast<const char*>(&v), 8); }

LengthEntry measure(const DatasetFolder& dataset, const Templates& templates, int64_t i) {
  const RawSample raw = dataset.read(i);
  const LengthEntry e = length_of(raw.sample, templates.encode(raw.sample));
  check<DataError>(!templates.options().pictures_apart() || e.clips == 0 || e.clips == e.media, "sample '",
                   raw.sample.id(), "' has ", e.media - e.clips, " pictures and ", e.clips,
                   " clips, which this model cannot take together");
  return e;
}

void write_index(const std::string& path, uint64_t key, const std::vector<LengthEntry>& entries) {
  std::string bytes(kMagic);
  append_u64(bytes, key);
  append_u64(bytes, entries.size());
  bytes.append(reinterpret_cast<const char*>(entries.data()), entries.size() * sizeof(LengthEntry));
  append_u64(bytes, xxh3(bytes));
  replace_file(path, std::as_bytes(std::span<const char>(bytes.data(), bytes.size())));
}

// Collects the first problems of several threads, in sample order.
class Problems {
 public:
  void add(int64_t i, const std::string& what) {
    const std::lock_guard lock(mutex_);
    ++count_;
    first_[i] = what;
    if (first_.size() > kListed) first_.erase(std::prev(first_.end()));
  }
  void raise(const std::string& folder) const {
    if (count_ == 0) return;
    std::string text = cat("dataset ", folder, ": ", count_, " samples do not fit, no length index was written");
    for (const auto& [i, what] : first_) text += cat("\n  sample ", i, ": ", what);
    if (count_ > static_cast<int64_t>(first_.size())) text += "\n  ...";
    throw DataError(text);
  }

 private:
  std::mutex mutex_;
  int64_t count_ = 0;
  std::map<int64_t, std::string> first_;
};

}  // namespace

LengthEntry length_of(const data::Sample& sample, const TokenizedSample& t) {
  const auto count = [](const auto& v) { return static_cast<int32_t>(v.size()); };
  int32_t words = 0;
  for (const auto& text : t.connector_texts) words += count(text);
  const auto is_clip = [](const data::Media& m) { return m.kind() == data::Media::JPEG_FRAMES; };
  return {.tokens = count(t.tokens),
          .loss_tokens = t.loss_tokens,
          .media = sample.media_size(),
          .regions = count(t.region_rows),
          .box_inputs = count(t.box_in_rows),
          .views = t.views,
          .visual_slots = count(t.visual_rows),
          .connector_tokens = words,
          .clips = static_cast<int32_t>(std::count_if(sample.media().begin(), sample.media().end(), is_clip))};
}

std::string length_index_path(const DatasetFolder& dataset, const Templates& templates) {
  char name[40];
  std::snprintf(name, sizeof name, "lengths-%016llx.idx", static_cast<unsigned long long>(key_of(dataset, templates)));
  return cat(dataset.folder(), "/", name);
}

std::vector<LengthEntry> load_length_index(const DatasetFolder& dataset, const Templates& templates) {
  const std::string path = length_index_path(dataset, templates);
  const auto must = [&](bool ok, std::string_view what) {
    check<DataError>(
        ok, "length index ", path, " ", what,
        "; it depends on tokenizer, templates, slots, max_tokens and manifest; build it with: tpo_dist data index ",
        "--config RUN.textproto");
  };
  std::string bytes;
  try {
    bytes = read_file(path, uint64_t{1} << 36);
  } catch (const DataError&) {
    must(false, "does not exist for these settings");
  }
  must(bytes.size() >= kHeader + 8 && bytes.starts_with(kMagic.substr(0, 7)), "is damaged");
  must(bytes.starts_with(kMagic), "has another version");
  const uint64_t n = u64_at(bytes, 16);
  must(n < bytes.size() && bytes.size() == kHeader + n * sizeof(LengthEntry) + 8, "is damaged (wrong length)");
  must(xxh3(std::string_view(bytes).substr(0, bytes.size() - 8)) == u64_at(bytes, bytes.size() - 8),
       "is damaged (checksum differs)");
  must(u64_at(bytes, 8) == key_of(dataset, templates) && n == static_cast<uint64_t>(dataset.size()), "is stale");
  std::vector<LengthEntry> entries(n);
  std::memcpy(entries.data(), bytes.data() + kHeader, n * sizeof(LengthEntry));
  return entries;
}

std::vector<LengthEntry> build_length_index(const DatasetFolder& dataset, const Templates& templates, int threads,
                                            const std::function<void(int64_t, int64_t)>& progress) {
  check<ConfigError>(threads >= 1, "threads is ", threads, ", expected 1 or more");
  std::vector<LengthEntry> entries(static_cast<size_t>(dataset.size()));
  std::atomic<int64_t> next = 0;
  int64_t done = 0;
  std::mutex progress_mutex;
  Problems problems;
  const auto work = [&] {
    for (int64_t i = next++; i < dataset.size(); i = next++) {
      try {
        entries[static_cast<size_t>(i)] = measure(dataset, templates, i);
      } catch (const std::exception& e) {
        problems.add(i, e.what());
      }
      if (progress) {
        const std::lock_guard lock(progress_mutex);
        progress(++done, dataset.size());
      }
    }
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(work);
  work();
  for (auto& t : pool) t.join();
  problems.raise(dataset.folder());
  write_index(length_index_path(dataset, templates), key_of(dataset, templates), entries);
  return entries;
}

}  // namespace tpo
