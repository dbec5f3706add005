#include "data/collate.h"

#include <algorithm>
#include <numeric>

#include "core/connector_text.h"
#include "core/error.h"
#include "data/decode/image.h"
#include "data/frame_times.h"
#include "data/picture_views.h"

namespace tpo {
namespace {

constexpr int64_t kRowsPerSlot = int64_t{1} << 20;

bool is_clip(const data::Media& m) { return m.kind() == data::Media::JPEG_FRAMES; }

PictureSize size_of(const data::Media& m) { return {m.width(), m.height()}; }

// Frames taken of a clip of n: one of each of `count` equal intervals; the last one again when the clip is too short.
std::vector<int> pick_frames(int n, const CollateOptions& options, uint64_t counter) {
  const int count = options.clip_frames;
  if (n < count || options.frames == CollateOptions::Frames::kMiddle) return middle_frames(n, count);
  std::vector<int> picked;
  for (int i = 0; i < count; ++i) {
    const int begin = static_cast<int>(int64_t{i} * n / count), end = static_cast<int>(int64_t{i + 1} * n / count);
    picked.push_back(begin +
                     static_cast<int>(uniform_below(options.key, counter + static_cast<uint64_t>(i), end - begin)));
  }
  return picked;
}

// What the media of a microbatch have in common, and how many the encoder sees.
struct MediaShape {
  int64_t frames = 0, views = 0;
  std::vector<int64_t> picture_sizes;  // of tiled pictures

  void add(const data::Sample& sample, const CollateOptions& options) {
    for (const data::Media& m : sample.media()) {
      const bool tiled = options.tiling && !is_clip(m);
      const int64_t mine = is_clip(m) ? options.clip_frames : 1;
      check<DataError>(frames == 0 || (mine == frames && tiled == !picture_sizes.empty()), "sample '", sample.id(),
                       "' has media of ", mine, " frames where the microbatch has ", frames,
                       ": pictures and clips cannot be packed together");
      frames = mine;
      views += tiled ? options.tiling->layout(size_of(m)).views() : 1;
      if (tiled) picture_sizes.push_back(m.width()), picture_sizes.push_back(m.height());
    }
  }
};

// Fills `out` from the front and returns the rest of it.
std::span<float> fill_medium(const RawSample& raw, int m, const CollateOptions& options, uint64_t counter,
                             std::span<float> out) {
  const data::Media& media = raw.sample.media(m);
  const int side = options.image_size;
  const size_t pixels = static_cast<size_t>(side) * side * 3;
  const auto decode = [&](int f, const ImageSize& wish) {
    return decode_image(raw.frame(m, f), cat("of sample '", raw.sample.id(), "', media ", m, " frame ", f),
                        options.exact_decode ? ImageSize{} : wish);
  };
  if (options.tiling && !is_clip(media)) {
    const PictureSize size = size_of(media);
    const ImageSize real = image_size(raw.frame(m, 0), raw.sample.id());
    check<DataError>(real.width == size.width && real.height == size.height, "sample '", raw.sample.id(), "', media ",
                     m, " is ", real.width, " x ", real.height, ", its record says ", size.width, " x ", size.height);
    const size_t floats = static_cast<size_t>(options.tiling->layout(size).views()) * pixels;
    fill_views(decode(0, size_for_views(size, *options.tiling)), size, *options.tiling, out.first(floats),
               options.pixels);
    return out.subspan(floats);
  }
  const std::vector<int> frames =
      is_clip(media) ? pick_frames(media.frame_bytes_size(), options, counter) : std::vector<int>{0};
  for (int f : frames) {
    resize_normalised(decode(f, {side, side}), side, side, out.first(pixels), options.pixels);
    out = out.subspan(pixels);
  }
  return out;
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

// A sample in its microbatch; nothing is owned.
struct Item {
  const RawSample* raw;
  const TokenizedSample* text;
  int64_t slot;
};

// The texts that the connector reads beside the media, if any sample has one. All media fill as many slots.
void add_texts(std::span<const Item> items, HostBatch& batch) {
  std::vector<std::vector<int32_t>> texts;
  std::vector<int64_t> row_ids;
  bool any = false;
  size_t slots = 0;
  for (const Item& item : items) {
    const auto media = static_cast<size_t>(item.raw->sample.media_size());
    any = any || !item.text->connector_texts.empty();
    for (size_t m = 0; m < media; ++m) {
      texts.push_back(item.text->connector_texts.empty() ? std::vector<int32_t>{} : item.text->connector_texts[m]);
      slots = item.text->visual_rows.size() / media;
      row_ids.push_back(item.slot * kRowsPerSlot + item.text->visual_rows[m * slots]);
    }
  }
  if (any) add_connector_text(batch, texts, static_cast<int64_t>(slots), row_ids);
}

HostBatch pack(std::span<const Item> items, const CollateOptions& options) {
  HostBatch batch;
  batch.samples = static_cast<int64_t>(items.size());
  Text text;
  MediaShape shape;
  for (const Item& item : items) {
    const data::Sample& sample = item.raw->sample;
    batch.sample_ids.push_back(sample.id());
    check<DataError>(static_cast<int64_t>(item.text->tokens.size()) <= kRowsPerSlot, "sample '", sample.id(), "' has ",
                     item.text->tokens.size(), " tokens, at most ", kRowsPerSlot, " fit");
    text.add(*item.text, item.slot);
    shape.add(sample, options);
  }
  text.store(batch.arrays);
  add_texts(items, batch);
  if (shape.views == 0) return batch;
  const int64_t side = options.image_size;
  HostArray images{{shape.views, shape.frames, side, side, 3}, DType::kF32, {}};
  images.bytes.resize(static_cast<size_t>(images.shape.numel()) * sizeof(float));
  std::span<float> rest{reinterpret_cast<float*>(images.bytes.data()), static_cast<size_t>(images.shape.numel())};
  for (const Item& item : items) {
    const auto counter = static_cast<uint64_t>(item.slot * kRowsPerSlot);
    for (int m = 0; !options.blind && m < item.raw->sample.media_size(); ++m)
      rest = fill_medium(*item.raw, m, options, counter + static_cast<uint64_t>(m) * 4096, rest);
  }
  batch.arrays["images"] = std::move(images);
  if (!shape.picture_sizes.empty()) batch.extents["picture_sizes"] = std::move(shape.picture_sizes);
  return batch;
}

}  // namespace

HostBatch collate(std::span<const CollateItem> items, int dataset, const CollateOptions& options) {
  std::vector<Item> borrowed;
  for (const CollateItem& item : items) borrowed.push_back({&item.raw, &item.text, item.slot});
  HostBatch batch = pack(borrowed, options);
  batch.dataset = dataset;
  return batch;
}

HostBatch collate_prompt(const RawSample& raw, const TokenizedSample& prompt, const CollateOptions& options) {
  CollateOptions middle = options;
  middle.frames = CollateOptions::Frames::kMiddle;
  const Item item{&raw, &prompt, 0};
  HostBatch batch = pack({&item, 1}, middle);
  for (const char* name : {"targets", "row_ids", "region_targets", "connector_text.row_ids"}) batch.arrays.erase(name);
  return batch;
}

}  // namespace tpo
