#include "launcher/step_plan.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>

#include "core/connector_text.h"
#include "launcher/trainer.h"
#include "parallel/comm/sim.h"

namespace tpo {

namespace {

HostArray zeros(const Shape& shape, DType dtype) {
  HostArray a{shape, dtype, {}};
  a.bytes.resize(static_cast<size_t>(shape.numel()) * size_of(dtype));
  return a;
}

// As data/collate.h lays a microbatch out.
HostBatch make_batch(const MicrobatchSize& size, const TpoModel& model) {
  const int64_t rows = std::accumulate(size.sequences.begin(), size.sequences.end(), int64_t{0});
  HostBatch batch;
  batch.samples = static_cast<int64_t>(size.sequences.size());
  auto& arrays = batch.arrays;
  for (const char* name : {"tokens", "targets", "positions"}) arrays[name] = zeros({rows}, DType::kI32);
  arrays["row_ids"] = zeros({rows}, DType::kI64);
  std::vector<int32_t> ends{0};
  for (const int64_t n : size.sequences) ends.push_back(ends.back() + static_cast<int32_t>(n));
  arrays["cu_seqlens"] = HostArray::from(ends, {static_cast<int64_t>(ends.size())});
  if (size.media > 0) {
    const int64_t side = model.config().vision.image_size;
    int64_t slots = size.pictures.empty() ? size.media * model.visual_slots_per_media(size.frames) : 0;
    for (const PictureSize& p : size.pictures) {
      slots += model.tiling()->layout(p).slots();
      for (const int64_t n : {p.width, p.height}) batch.extents["picture_sizes"].push_back(n);
    }
    arrays["images"] = zeros({size.media, size.frames, side, side, 3}, DType::kF32);
    arrays["visual_rows"] = zeros({slots}, DType::kI32);
    std::vector<std::vector<int32_t>> texts;
    for (const int64_t n : size.connector_texts) texts.emplace_back(static_cast<size_t>(n));
    if (!texts.empty()) add_connector_text(batch, texts, slots / size.media, std::vector<int64_t>(texts.size()));
  }
  const auto boxes = [&](const char* slots, const char* values, int64_t n) {
    if (n == 0) return;
    arrays[slots] = zeros({n}, DType::kI32);
    arrays[values] = zeros({n, 4}, DType::kF32);
  };
  boxes("region_rows", "region_targets", size.regions);
  boxes("box_in_rows", "box_in", size.box_inputs);
  return batch;
}

int64_t bytes_of(const HostBatch& batch) {
  int64_t bytes = 0;
  for (const auto& [name, array] : batch.arrays) bytes += static_cast<int64_t>(array.bytes.size());
  return bytes;
}

int64_t sum_of_largest(const std::vector<LengthEntry>& lengths, int32_t LengthEntry::*field, size_t count) {
  std::vector<int64_t> all;
  for (const LengthEntry& e : lengths) all.push_back(e.*field);
  count = std::min(count, all.size());
  std::partial_sort(all.begin(), all.begin() + static_cast<int64_t>(count), all.end(), std::greater<>());
  return std::accumulate(all.begin(), all.begin() + static_cast<int64_t>(count), int64_t{0});
}

// Sizes without black edges, one a grid.
std::vector<PictureSize> whole_grids(const PictureTiling& tiling) {
  std::vector<PictureSize> all;
  for (int64_t columns = 1; columns <= tiling.limits.max_side; ++columns)
    for (int64_t rows = 1; rows <= tiling.limits.max_side; ++rows)
      all.push_back({columns * tiling.tile, rows * tiling.tile});
  return all;
}

// That of most views, then slots, of at most `room` slots; one tile if none is so small.
PictureSize largest_picture(const PictureTiling& tiling, int64_t room) {
  PictureSize best{tiling.tile, tiling.tile};
  for (const PictureSize& p : whole_grids(tiling)) {
    const TileLayout t = tiling.layout(p), b = tiling.layout(best);
    if (t.slots() <= room && std::pair(t.views(), t.slots()) > std::pair(b.views(), b.slots())) best = p;
  }
  return best;
}

// At least `count` pictures that have at least so many views and slots, as large ones as there are, then small ones:
// what is resampled takes memory of its own.
std::vector<PictureSize> pictures_with(int64_t count, int64_t views, int64_t slots, const PictureTiling& tiling) {
  std::vector<PictureSize> pictures;
  for (; count > 0 || views > 0 || slots > 0; --count) {
    PictureSize next{tiling.tile, tiling.tile};
    int64_t most = 2;
    for (const PictureSize& p : whole_grids(tiling))
      if (const int64_t v = tiling.layout(p).views(); v > most && v + 2 * std::max<int64_t>(0, count - 1) <= views)
        next = p, most = v;
    pictures.push_back(next);
    views -= most, slots -= tiling.layout(next).slots();
  }
  return pictures;
}

// The largest microbatch of `count` of these samples.
// longest_text: of the connector.
MicrobatchSize largest_of(const std::vector<LengthEntry>& lengths, size_t count, const PictureTiling* tiling,
                          int64_t longest_text) {
  std::vector<LengthEntry> by_tokens = lengths;
  std::sort(by_tokens.begin(), by_tokens.end(), [](auto& a, auto& b) { return a.tokens > b.tokens; });
  MicrobatchSize size;
  // A dataset smaller than a microbatch gives its samples again.
  for (size_t i = 0; i < count; ++i) size.sequences.push_back(by_tokens[i % by_tokens.size()].tokens);
  const auto repeats = static_cast<int64_t>((count + lengths.size() - 1) / lengths.size());
  const auto most = [&](int32_t LengthEntry::*field) { return repeats * sum_of_largest(lengths, field, count); };
  size.media = most(&LengthEntry::views), size.regions = most(&LengthEntry::regions);
  size.box_inputs = most(&LengthEntry::box_inputs), size.loss_rows = most(&LengthEntry::loss_tokens);
  // As few texts as there can be: attention takes most then.
  for (int64_t rest = most(&LengthEntry::connector_tokens), m = 0; rest > 0 || (m > 0 && m < size.media); ++m) {
    size.connector_texts.push_back(std::min(rest, longest_text));
    rest -= size.connector_texts.back();
  }
  if (tiling == nullptr) return size;
  size.pictures = pictures_with(most(&LengthEntry::media), size.media, most(&LengthEntry::visual_slots), *tiling);
  size.media = 0;
  for (const PictureSize& p : size.pictures) size.media += tiling->layout(p).views();
  return size;
}

// Of `media` pictures, in tiles where the model has these, or clips a sample; says which in `what`.
MicrobatchSize size_of_limits(const config::RunConfig& config, int64_t media, int64_t frames, std::string& what) {
  const int64_t tokens = config.data().max_tokens(), samples = config.train().samples_per_microbatch();
  const VisualSlots visual = visual_slots(config, frames);
  MicrobatchSize size;
  int64_t slots = media * visual.of_whole;
  size.media = samples * media, size.frames = frames;
  what = cat(media, frames > 1 ? cat(" clip(s) of ", frames, " frames") : " picture(s)");
  if (frames == 1 && visual.tiling && media > 0) {
    const PictureSize largest = largest_picture(*visual.tiling, tokens / media);
    const TileLayout tiles = visual.tiling->layout(largest);
    slots = media * tiles.slots();
    size.pictures.assign(static_cast<size_t>(size.media), largest), size.media *= tiles.views();
    what += cat(" of ", largest.width, " x ", largest.height, " pixels in tiles");
  }
  check<ConfigError>(slots <= tokens, media, " media of ", frames, " frames take ", slots,
                     " tokens of a sample, more than data.max_tokens = ", tokens,
                     "; raise max_tokens, or lower --media or model.vision.clip_frames");
  size.sequences.assign(static_cast<size_t>(samples), tokens);
  const ConnectorTexts texts = connector_texts(config);
  if (texts.longest > 0 && (frames > 1 || texts.of_pictures))
    size.connector_texts.assign(static_cast<size_t>(size.media), texts.longest);
  size.regions = size.box_inputs = samples;
  size.loss_rows = samples * (tokens - slots);
  return size;
}

}  // namespace

StepShape shape_of_limits(const config::RunConfig& config, int64_t media) {
  const int64_t frames = make_model_config(config, 1).vision.clip_frames;
  StepShape shape;
  std::string what, clips;
  if (frames > 1 && media > 0 && visual_slots(config, 1).tiling) {
    shape.kinds.push_back({"limits, pictures", size_of_limits(config, media, 1, what), 0.5});
    shape.kinds.push_back({"limits, clips", size_of_limits(config, media, frames, clips), 0.5});
    what += " or " + clips;
  } else {
    shape.kinds.push_back({"limits", size_of_limits(config, media, frames, what), 1});
  }
  shape.source = cat("the limits of the configuration: ", config.train().samples_per_microbatch(),
                     " samples of data.max_tokens = ", config.data().max_tokens(), " tokens with ", what,
                     " each, every text token labelled");
  return shape;
}

StepShape shape_of_data(const config::RunConfig& config, const TrainingData& data) {
  StepShape shape{{}, "the largest samples of each dataset, from its length index"};
  double weights = 0;
  for (const MixtureDataset& d : data.mixer->datasets()) weights += static_cast<double>(d.weight);
  const TemplateOptions& options = data.templates->options();
  const int64_t longest_text = connector_texts(config).longest;
  for (const MixtureDataset& set : data.mixer->datasets()) {
    const double share = static_cast<double>(set.weight) / weights;
    // With clips apart from pictures, what a microbatch of each may hold: text beside both.
    std::vector<LengthEntry> pictures, clips;
    for (const LengthEntry& e : set.lengths) {
      if (!options.pictures_apart() || e.clips == 0) pictures.push_back(e);
      if (e.media == 0 || e.clips > 0) clips.push_back(e);
    }
    const auto any = [](const std::vector<LengthEntry>& v) {
      return std::any_of(v.begin(), v.end(), [](const LengthEntry& e) { return e.media > 0; });
    };
    const bool has_clips = options.pictures_apart() && any(clips), both = has_clips && any(pictures);
    const auto add = [&](const std::vector<LengthEntry>& of, const char* what, int64_t frames) {
      const auto count = static_cast<size_t>(set.samples_per_microbatch);
      const bool tiled = options.tiling && &of == &pictures && any(of);
      MicrobatchSize size = largest_of(of, count, tiled ? &*options.tiling : nullptr, longest_text);
      size.frames = frames;
      shape.kinds.push_back({both ? cat(set.name, ", ", what) : set.name, size, both ? share / 2 : share});
    };
    if (both || !has_clips) add(pictures, "pictures", 1);
    if (has_clips) add(clips, "clips", options.clip_frames);
  }
  return shape;
}

LocalStep make_local_step(std::span<const MicrobatchSize> sizes, const TpoModel& model, int data_ranks) {
  LocalStep local;
  local.plan.per_dataset.resize(1);
  for (const MicrobatchSize& size : sizes) local.batches.push_back(make_batch(size, model));
  for (size_t m = 0; m < sizes.size() * static_cast<size_t>(data_ranks); ++m) {
    const MicrobatchSize& size = sizes[m % sizes.size()];
    const auto samples = static_cast<int64_t>(size.sequences.size());
    const Counts counts{
        .samples = samples,
        .tokens = std::accumulate(size.sequences.begin(), size.sequences.end(), int64_t{0}),
        .loss_tokens = size.loss_rows,
        .media = size.pictures.empty() ? size.media : static_cast<int64_t>(size.pictures.size()),
        .regions = size.regions,
        .box_inputs = size.box_inputs,
        .views = size.media,
        .connector_tokens = std::accumulate(size.connector_texts.begin(), size.connector_texts.end(), int64_t{0})};
    local.plan.microbatches.push_back({0, static_cast<int64_t>(local.plan.slots.size()), samples, counts});
    local.plan.slots.resize(local.plan.slots.size() + static_cast<size_t>(samples));
    for (Counts* sum : {&local.plan.total, &local.plan.per_dataset[0]}) sum->add(counts);
  }
  return local;
}

namespace {

struct UseTrace final : ParamHooks {
  void before_use(Param& p) override { names.push_back(p.name); }
  std::vector<std::string> names;
};

}  // namespace

std::vector<std::string> order_of_use(config::RunConfig config, int64_t vocab) {
  config.mutable_model()->set_recompute("none");
  const auto stream = Stream::make_meta();
  const StreamScope scope(*stream);
  const auto alone = make_single("order of use");
  ParamStore store(0);
  const TpoModel model(store, make_model_config(config, vocab), *alone);
  MicrobatchSize size;
  size.media = size.regions = size.box_inputs = size.loss_rows = 1;
  size.frames = model.config().vision.clip_frames;
  size.sequences = {model.visual_slots_per_media(size.frames) + 2};
  const ConnectorConfig& connector = model.config().connector;
  if (connector.kind == ConnectorConfig::Kind::kQFormer && connector.qformer.text_vocab > 0) size.connector_texts = {1};
  const LocalStep local = make_local_step({&size, 1}, model);
  UseTrace trace;
  store.set_hooks(&trace);
  Tape tape;
  {
    const TapeScope recording(tape);
    model.loss(upload(local.batches[0]), {1, 1}, RngKey(0));
  }
  store.set_hooks(nullptr);
  return trace.names;
}

StepNeeds plan_step(config::RunConfig config, int64_t vocab, std::span<const MicrobatchSize> microbatches,
                    int data_ranks) {
  config.mutable_run()->set_device("meta");
  config.mutable_layout()->set_data(data_ranks);
  check_mesh(make_mesh_shape(config, data_ranks * config.layout().tensor()), data_ranks * config.layout().tensor());
  TrainingData data;
  data.vocab = vocab;
  const int ranks = data_ranks * config.layout().tensor();
  const auto world = ranks == 1 ? make_single("plan") : make_simulated(config.layout().tensor() - 1, ranks);
  Trainer trainer(config, data, *world);
  const LocalStep local = make_local_step(microbatches, trainer.model(), data_ranks);
  trainer.step(local);
  StepNeeds needs;
  needs.memory = trainer.stream().allocator()->memory();
  needs.allocator = trainer.stream().allocator()->stats();
  for (const MicrobatchSize& size : microbatches) needs.flops.push_back(trainer.model().flops(size));
  for (const HostBatch& batch : local.batches) needs.batch_bytes.push_back(bytes_of(batch));
  needs.params = trainer.store().numel(), needs.trainable = trainer.store().numel(true);
  needs.buckets = static_cast<int64_t>(trainer.sync().buckets().size());
  for (const Bucket& b : trainer.sync().buckets())
    needs.largest_bucket_bytes = std::max(needs.largest_bucket_bytes, b.bytes());
  trainer.sync().with_full_values([&] { needs.whole_values_bytes = trainer.stream().allocator()->stats().live_bytes; });
  return needs;
}

namespace {

// A sequence in which every run of n symbols occurs: after n zeros always the largest symbol that makes a new one.
// Source: Martin 1934, A problem in arrangements (de Bruijn sequences).
std::vector<size_t> every_run(size_t symbols, size_t n) {
  std::vector<size_t> s(n, 0);
  std::set<std::vector<size_t>> seen{s};
  for (size_t next = symbols; next-- > 0;) {
    std::vector<size_t> run(s.end() - static_cast<std::ptrdiff_t>(n) + 1, s.end());
    run.push_back(next);
    if (seen.insert(run).second) s.push_back(next), next = symbols;
  }
  return s;
}

// Every sequence of n symbols.
std::vector<std::vector<size_t>> all_sequences(size_t symbols, size_t n) {
  std::vector<std::vector<size_t>> all{{}};
  for (size_t i = 0; i < n; ++i) {
    std::vector<std::vector<size_t>> longer;
    for (const auto& s : all)
      for (size_t k = 0; k < symbols; ++k) longer.push_back(s), longer.back().push_back(k);
    all = std::move(longer);
  }
  return all;
}

// The larger of each number.
void take_larger(StepNeeds& into, const StepNeeds& other) {
  for (size_t k = 0; k < static_cast<size_t>(kMemoryKinds); ++k) {
    into.memory.peak[k] = std::max(into.memory.peak[k], other.memory.peak[k]);
  }
  for (size_t p = 0; p < into.memory.phases.size(); ++p)
    if (other.memory.phases[p].bytes > into.memory.phases[p].bytes) into.memory.phases[p] = other.memory.phases[p];
  into.allocator.held_peak_bytes = std::max(into.allocator.held_peak_bytes, other.allocator.held_peak_bytes);
}

}  // namespace

std::vector<std::vector<size_t>> orders_of_kinds(size_t kinds, int64_t local, bool rounds) {
  constexpr int64_t kFewMicrobatches = 32;
  if (rounds && kinds > 1) {
    int64_t all = local;  // microbatches of all orders
    for (int64_t i = 0; i < local && all <= kFewMicrobatches; ++i) all *= static_cast<int64_t>(kinds);
    if (all <= kFewMicrobatches) return all_sequences(kinds, static_cast<size_t>(local));
    if (kinds <= kMostKinds) return {every_run(kinds, kinds <= 3 && local > 2 ? 3 : 2)};
  }
  // One kind in rounds: the second meets the reduction of the first, the third what comes before and after.
  const int64_t each = std::min<int64_t>(rounds ? 4 : 2, local);
  std::vector<size_t> order;
  for (size_t k = 0; k < kinds; ++k) order.insert(order.end(), static_cast<size_t>(each), k);
  return {order};
}

StepNeeds plan_steps(const config::RunConfig& config, int64_t vocab, std::span<const StepShape::Kind> kinds,
                     int64_t local, int data_ranks) {
  const auto in_rounds = [](const auto& of) { return of.sharding >= Sharding::kGradients; };
  const BucketOptions options = make_bucket_options(config);
  const bool rounds = in_rounds(options) || std::any_of(options.rules.begin(), options.rules.end(), in_rounds);
  std::optional<StepNeeds> needs;
  for (const std::vector<size_t>& order : orders_of_kinds(kinds.size(), local, rounds)) {
    std::vector<MicrobatchSize> sizes;
    for (const size_t k : order) sizes.push_back(kinds[k].size);
    const StepNeeds these = plan_step(config, vocab, sizes, data_ranks);
    if (needs) {
      take_larger(*needs, these);
    } else {
      needs = these;
      needs->flops.assign(kinds.size(), 0);
      needs->batch_bytes.assign(kinds.size(), 0);
    }
    for (size_t i = 0; i < order.size(); ++i) {
      needs->flops[order[i]] = these.flops[i];
      needs->batch_bytes[order[i]] = these.batch_bytes[i];
    }
  }
  return *needs;
}

}  // namespace tpo
