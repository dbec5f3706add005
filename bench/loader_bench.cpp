// Reading records: the shard reader with its checksum against plain pread of the same bytes, in random order, from the
// page cache, in alternating rounds, so that a noisy machine disturbs both alike. Then whole samples through decode and
// resize.
//   loader_bench [folder]      writes and removes a shard of 400 MiB in folder (default .)
// Prints one JSON object.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/rng.h"
#include "data/decode/image.h"
#include "data/h5_file.h"
#include "data/h5_shard.h"
#include "data/shuffle.h"

namespace {

constexpr int64_t kRecords = 4096;
constexpr size_t kBytes = 100 << 10;
constexpr size_t kSampleBytes = 200, kSampleStride = 256;  // a record starts at a multiple of 64
constexpr int kRounds = 15;

template <class F>
double seconds(F&& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

void write_shard(const std::string& path) {
  tpo::ShardWriter writer(path);
  std::vector<std::byte> media(kBytes), sample(kSampleBytes);
  for (int64_t i = 0; i < kRecords; ++i) {
    for (size_t k = 0; k < kBytes; k += 16) {
      const auto w = tpo::philox(tpo::RngKey(1).with(i), k);
      std::memcpy(media.data() + k, w.data(), 16);
    }
    writer.add(sample, media);
  }
  writer.finish();
}

void records(const std::string& path) {
  const tpo::ShardReader reader(path), careless(path, tpo::ShardReader::Checksums::kSkip);
  const tpo::H5Contents h5 = tpo::h5_inspect(path);
  const uint64_t media = h5.datasets.at("media_bytes").offset, sample = h5.datasets.at("sample_bytes").offset;
  const int fd = ::open(path.c_str(), O_RDONLY);
  tpo::check<tpo::IoError>(fd >= 0, "cannot open ", path);
  std::vector<std::byte> buffer(kBytes);
  tpo::Record record;
  std::vector<double> plain, checked, unchecked, ratio, media_ratio;
  for (int r = 0; r < kRounds + 1; ++r) {
    const tpo::Permutation order(tpo::RngKey(7).with(static_cast<uint64_t>(r)), kRecords);
    const double p = seconds([&] {
      for (int64_t i = 0; i < kRecords; ++i) {
        const uint64_t k = static_cast<uint64_t>(order(i));
        const ssize_t n = ::pread(fd, buffer.data(), kSampleBytes, static_cast<off_t>(sample + k * kSampleStride)) +
                          ::pread(fd, buffer.data(), kBytes, static_cast<off_t>(media + k * kBytes));
        tpo::check<tpo::IoError>(n == static_cast<ssize_t>(kBytes + kSampleBytes), "short read of ", path);
      }
    });
    const double o = seconds([&] {  // without the small field: one call a record
      for (int64_t i = 0; i < kRecords; ++i) {
        const ssize_t n =
            ::pread(fd, buffer.data(), kBytes, static_cast<off_t>(media + static_cast<uint64_t>(order(i)) * kBytes));
        tpo::check<tpo::IoError>(n == static_cast<ssize_t>(kBytes), "short read of ", path);
      }
    });
    const double c = seconds([&] {
      for (int64_t i = 0; i < kRecords; ++i) reader.read(order(i), record);
    });
    const double u = seconds([&] {
      for (int64_t i = 0; i < kRecords; ++i) careless.read(order(i), record);
    });
    if (r == 0) continue;  // the first round fills the page cache
    plain.push_back(p), checked.push_back(c), unchecked.push_back(u), ratio.push_back(p / c),
        media_ratio.push_back(o / c);
  }
  ::close(fd);
  volatile uint64_t sink = 0;
  const double hash = seconds([&] {  // of a buffer that is already in the cache
    for (int i = 0; i < 1000; ++i) sink = tpo::xxh3(std::span<const std::byte>(buffer));
  });
  std::printf("{\"record_bytes\": %zu, \"records\": %lld, \"rounds\": %d,\n", kBytes, static_cast<long long>(kRecords),
              kRounds);
  std::printf(
      " \"pread_records_per_s\": %.0f, \"reader_records_per_s\": %.0f, \"reader_unchecked_records_per_s\": %.0f,\n",
      kRecords / median(plain), kRecords / median(checked), kRecords / median(unchecked));
  std::printf(
      " \"reader_over_pread_median_of_pairs\": %.3f, \"reader_over_pread_of_media_only\": %.3f, \"xxh3_gb_per_s\": "
      "%.1f,\n",
      median(ratio), median(media_ratio), kBytes / 1e6 / hash);
}

void pictures() {
  tpo::Image image{512, 512, std::vector<uint8_t>(512 * 512 * 3)};
  for (size_t i = 0; i < image.rgb.size(); ++i) {
    image.rgb[i] = static_cast<uint8_t>(i / 3 % 512 / 2 + tpo::philox(tpo::RngKey(2), i)[0] % 40);
  }
  const auto jpeg = tpo::encode_jpeg(image, 85);
  std::vector<float> out(224 * 224 * 3);
  const auto rate = [&](tpo::ImageSize at_least) {
    std::vector<double> t;
    for (int r = 0; r < 60; ++r) {
      t.push_back(seconds([&] { tpo::resize_normalised(tpo::decode_jpeg(jpeg, "bench", at_least), 224, 224, out); }));
    }
    return 1.0 / median(t);
  };
  std::printf(" \"jpeg_kib\": %zu, \"jpeg512_to_224_per_s\": %.0f, \"jpeg512_to_224_exact_per_s\": %.0f}\n",
              jpeg.size() >> 10, rate({224, 224}), rate({}));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string path = std::string(argc > 1 ? argv[1] : ".") + "/loader_bench.h5";
  try {
    write_shard(path);
    records(path);
    pictures();
    std::filesystem::remove(path);
  } catch (const std::exception& e) {
    std::filesystem::remove(path);
    std::fprintf(stderr, "loader_bench: %s\n", e.what());
    return 1;
  }
  return 0;
}
