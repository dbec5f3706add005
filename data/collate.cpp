#include "data/collate.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "data/decode/image.h"

namespace tpo {
namespace {

constexpr int64_t kRowsPerSlot = int64_t{1} << 20;

bool is_clip(const data::Media& m) { return m.kind() == data::Media::JPEG_FRAMES; }

// Frames taken of a clip of n: one of each of `count` equal intervals; the last one again when the clip is too short.
std::vector<int> pick_frames(int n, const CollateOptions& options, uint64_t counter) {
  const int count = options.clip_frames;
  std::vector<int> picked;
  for (int i = 0; i < count; ++i) {
    if (n < count) {
      picked.push_back(std::min(i, n - 1));
      continue;
    }
    const int begin = static_cast<int>(int64_t{i} * n / count), end = static_cast<int>(int64_t{i + 1} * n / count);
    const bool random = options.frames == CollateOptions::Frames::kRandom;
    const int shift =
        random ? static_cast<int>(uniform_below(options.key, counter + static_cast<uint64_t>(i), end - begin))
               : (end - begin - 1) / 2;
    picked.push_back(begin + shift);
  }
  return picked;
}

// T of a sample's media; 0 without media. Throws DataError when pictures and clips are mixed.
int64_t frames_of(const data::Sample& sample, const CollateOptions& options) {
  int64_t t = 0;
  for (const data::Media& m : sample.media()) {
    const int64_t mine = is_clip(m) ? options.clip_frames : 1;
    check<DataError>(t == 0 || t == mine, "sample '", sample.id(), "' mixes pictures and clips");
    t = mine;
  }
  return t;
}

void fill_media(const RawSample& raw, const CollateOptions& options, uint64_t counter, std::span<float> out) {
  const int size = options.image_size;
  const size_t pixels = static_cast<size_t>(size) * size * 3;
  for (int m = 0; m < raw.sample.media_size(); ++m) {
    const data::Media& media = raw.sample.media(m);
    const std::vector<int> frames =
        is_clip(media) ? pick_frames(media.frame_bytes_size(), options, counter + static_cast<uint64_t>(m) * 4096)
                       : std::vector<int>{0};
    for (int f : frames) {
      const ImageSize wish = options.exact_decode ? ImageSize{} : ImageSize{size, size};
      const Image image =
          decode_image(raw.frame(m, f), cat("of sample '", raw.sample.id(), "', media ", m, " frame ", f), wish);
      resize_normalised(image, size, size, out.first(pixels), options.pixels);
      out = out.subspan(pixels);
    }
  }
}

template <class T>
HostArray make_array(const std::vector<T>& v) {
  return HostArray::from(v, {static_cast<int64_t>(v.size())});
}

HostArray box_array(const std::vector<Box4>& boxes) {
  std::vector<float> flat;
  for (const Box4& b : boxes) flat.insert(flat.end(), b.begin(), b.end());
  return HostArray::from(flat, {static_cast<int64_t>(boxes.size()), 4});
}

// The arrays of a packed microbatch that come from text.
struct Text {
  std::vector<int32_t> tokens, targets, positions, cu{0}, visual, region_rows, box_rows;
  std::vector<int64_t> row_ids;
  std::vector<Box4> regions, boxes;

  void add(const TokenizedSample& t, int64_t slot) {
    const auto base = static_cast<int32_t>(tokens.size());
    const auto shifted = [&](const std::vector<int32_t>& from, std::vector<int32_t>& to) {
      for (int32_t r : from) to.push_back(r + base);
    };
    tokens.insert(tokens.end(), t.tokens.begin(), t.tokens.end());
    targets.insert(targets.end(), t.targets.begin(), t.targets.end());
    for (size_t i = 0; i < t.tokens.size(); ++i) {
      positions.push_back(static_cast<int32_t>(i));
      row_ids.push_back(slot * kRowsPerSlot + static_cast<int64_t>(i));
    }
    cu.push_back(static_cast<int32_t>(tokens.size()));
    shifted(t.visual_rows, visual), shifted(t.region_rows, region_rows), shifted(t.box_in_rows, box_rows);
    regions.insert(regions.end(), t.region_targets.begin(), t.region_targets.end());
    boxes.insert(boxes.end(), t.box_in.begin(), t.box_in.end());
  }

  void store(std::map<std::string, HostArray>& arrays) const {
    arrays["tokens"] = make_array(tokens);
    arrays["targets"] = make_array(targets);
    arrays["positions"] = make_array(positions);
    arrays["cu_seqlens"] = make_array(cu);
    arrays["row_ids"] = make_array(row_ids);
    if (!visual.empty()) arrays["visual_rows"] = make_array(visual);
    if (!region_rows.empty()) {
      arrays["region_rows"] = make_array(region_rows);
      arrays["region_targets"] = box_array(regions);
    }
    if (!box_rows.empty()) {
      arrays["box_in_rows"] = make_array(box_rows);
      arrays["box_in"] = box_array(boxes);
    }
  }
};

}  // namespace

int64_t load_media(const RawSample& raw, const CollateOptions& options, uint64_t counter, std::vector<float>& out) {
  const int64_t t = frames_of(raw.sample, options);
  out.assign(static_cast<size_t>(raw.sample.media_size() * t) * options.image_size * options.image_size * 3, 0.0f);
  if (!options.blind) fill_media(raw, options, counter, out);
  return t;
}

HostBatch collate(std::span<const CollateItem> items, int dataset, const CollateOptions& options) {
  HostBatch batch;
  batch.dataset = dataset;
  batch.samples = static_cast<int64_t>(items.size());
  Text text;
  int64_t t = 0, media = 0;
  for (const CollateItem& item : items) {
    const data::Sample& sample = item.raw.sample;
    batch.sample_ids.push_back(sample.id());
    check<DataError>(static_cast<int64_t>(item.text.tokens.size()) <= kRowsPerSlot, "sample '", sample.id(), "' has ",
                     item.text.tokens.size(), " tokens, at most ", kRowsPerSlot, " fit");
    text.add(item.text, item.slot);
    const int64_t mine = frames_of(sample, options);
    check<DataError>(mine == 0 || t == 0 || mine == t, "sample '", sample.id(), "' has ", mine,
                     " frames where the microbatch has ", t, ": pictures and clips cannot be packed together");
    t = std::max(t, mine);
    media += sample.media_size();
  }
  text.store(batch.arrays);
  if (media == 0) return batch;
  const int64_t s = options.image_size, per_media = t * s * s * 3;
  HostArray images{{media, t, s, s, 3}, DType::kF32, {}};
  images.bytes.resize(static_cast<size_t>(media * per_media) * sizeof(float));
  std::span<float> rest{reinterpret_cast<float*>(images.bytes.data()), static_cast<size_t>(media * per_media)};
  for (const CollateItem& item : items) {
    const size_t n = static_cast<size_t>(item.raw.sample.media_size() * per_media);
    if (!options.blind) fill_media(item.raw, options, static_cast<uint64_t>(item.slot * kRowsPerSlot), rest.first(n));
    rest = rest.subspan(n);
  }
  batch.arrays["images"] = std::move(images);
  return batch;
}

}  // namespace tpo
