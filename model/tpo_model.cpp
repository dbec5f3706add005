#include "model/tpo_model.h"

#include "core/ops/cast.h"
#include "core/ops/embedding.h"
#include "core/ops/index.h"
#include "core/ops/pointwise.h"
#include "model/connector/linear_connector.h"
#include "model/connector/mlp_connector.h"

namespace tpo {

namespace {

const TpoConfig& checked(const TpoConfig& config) {
  std::string all;
  for (const std::string& p : config_problems(config)) all += (all.empty() ? "" : "; ") + p;
  check<ConfigError>(all.empty(), "model configuration: ", all);
  return config;
}

std::unique_ptr<Connector> make_connector(const ParamScope& scope, const TpoConfig& c, const TensorParallel& tp) {
  switch (c.connector.kind) {
    case ConnectorConfig::Kind::kLinear:
      return std::make_unique<LinearConnector>(scope, c.vision.width, c.language.width, c.connector.merge, tp);
    case ConnectorConfig::Kind::kQFormer:
      return std::make_unique<QFormer>(scope, c.connector.qformer, c.vision.width, c.language.width, tp);
    case ConnectorConfig::Kind::kMlp:
      return std::make_unique<MlpConnector>(scope, c.vision.width, c.language.width, c.vision.image_size,
                                            c.connector.tiling, tp);
  }
  throw ConfigError("connector.kind has an unknown value");
}

// Pairs of width and height.
std::vector<PictureSize> picture_sizes(std::span<const int64_t> extents) {
  check_shape(extents.size() % 2 == 0, "[tpo_model] picture_sizes has ", extents.size(), " numbers, an odd number");
  std::vector<PictureSize> sizes;
  for (size_t i = 0; i < extents.size(); i += 2) sizes.push_back({extents[i], extents[i + 1]});
  return sizes;
}

// Arrays that make sense as a pair only.
bool has_pair(const Batch& batch, const char* a, const char* b) {
  check_shape(batch.has(a) == batch.has(b), "[tpo_model] a batch with '", batch.has(a) ? a : b, "' needs '",
              batch.has(a) ? b : a, "'");
  return batch.has(a);
}

// The arrays of texts beside media, which come with media and together.
bool has_texts(const Batch& batch) {
  bool any = false, all = true;
  for (const char* part : {"ids", "positions", "medium", "joint_cu", "order", "back"}) {
    const bool has = batch.has(std::string("connector_text.") + part);
    any = any || has, all = all && has;
  }
  check_shape(any == all, "[tpo_model] a batch has some of connector_text.{ids,positions,medium,joint_cu,order,back}, ",
              "which come together");
  check_shape(!any || batch.has("images"), "[tpo_model] a batch with 'connector_text.ids' needs 'images'");
  return any;
}

// Decided here and not in the layers: a recomputed block runs once without a tape and once with one.
bool drops(const Batch& batch) { return Tape::current() != nullptr && batch.has("row_ids"); }

}  // namespace

void freeze_unread(ParamStore& store, const TpoConfig& config, bool has_connector_texts) {
  if (config.language.detach_embeddings) store.set_trainable("language.embed_tokens.*", false);
  const ConnectorConfig& c = config.connector;
  if (c.kind != ConnectorConfig::Kind::kQFormer || c.qformer.text_vocab == 0) return;
  store.set_trainable(cat("connector.layers.", c.qformer.layers - 1, ".text_*"), false);
  if (has_connector_texts) return;
  for (const char* texts :
       {"connector.layers.*.text_*", "connector.word_embeddings.*", "connector.position_embeddings.*"})
    store.set_trainable(texts, false);
}

TpoModel::TpoModel(ParamStore& store, const TpoConfig& config, ProcessGroup& tp)
    : config_(checked(config)),
      vision_(make_vision_encoder(ParamScope(store).in_group("vision") / "vision", config.vision, tp)),
      connector_(make_connector(ParamScope(store).in_group("vision") / "connector", config, tp)),
      tokens_(ParamScope(store) / "task_tokens", config.language.width, config.task_token_stddev),
      box_encoder_(ParamScope(store).in_group("box_input") / "box_encoder", config.box_encoder_hidden,
                   config.language.width, tp),
      language_(ParamScope(store) / "language", config.language, tp),
      region_(ParamScope(store).in_group("head.region") / "heads" / "region", config.language.width, config.region,
              tp) {
  const bool texts =
      config.connector.kind == ConnectorConfig::Kind::kQFormer && config.connector.qformer.text_vocab > 0;
  groups_ = {store.group("vision"), texts ? store.group("connector.text") : -1, store.group("token.box"),
             store.group("head.region"), store.group("box_input")};
}

Tensor TpoModel::visual_slots(const Batch& batch, RngKey dropout_key) const {
  const Tensor& images = batch.at("images");
  const Tensor& rows = batch.at("visual_rows");
  ConnectorInput in{.vision = (*vision_)(images),
                    .grid = vision_->grid(images.dim(0), images.dim(1)),
                    .key = dropout_key,
                    .pictures = picture_sizes(batch.extents("picture_sizes"))};
  const int64_t slots = connector_->slots_of_all(in);
  check_shape(rows.numel() == slots, "[tpo_model] visual_rows ", rows.shape(), " must name ", slots, " slots of ",
              in.grid.media, " media of ", images.dim(1), " frames");
  if (has_texts(batch)) {
    check_shape(groups_.connector_text >= 0, "[tpo_model] connector_text.ids needs connector.kind qformer with ",
                "connector.qformer.text_vocab above 0: this connector reads no texts");
    const auto part = [&](const char* name) { return batch.at(std::string("connector_text.") + name); };
    in.text = {.ids = part("ids"),
               .positions = part("positions"),
               .medium = part("medium"),
               .joint_cu = part("joint_cu"),
               .order = part("order"),
               .back = part("back")};
  }
  if (drops(batch)) {
    in.row_ids = gather_ids(batch.at("row_ids"), rows);
    if (in.text.any()) in.text.row_ids = batch.at("connector_text.row_ids");
  }
  return (*connector_)(in);
}

Tensor TpoModel::embed(const Batch& batch, RngKey dropout_key) const {
  Tensor x_NC = language_.embed(batch.at("tokens"));
  has_texts(batch);
  if (has_pair(batch, "images", "visual_rows"))
    x_NC = overwrite_rows(x_NC, batch.at("visual_rows"), visual_slots(batch, dropout_key));
  if (batch.has("region_rows")) {
    const Tensor& rows = batch.at("region_rows");
    x_NC = overwrite_rows(x_NC, rows, broadcast_rows(tokens_[Task::kBox].use(), rows.numel()));
  }
  if (has_pair(batch, "box_in_rows", "box_in"))
    x_NC = overwrite_rows(x_NC, batch.at("box_in_rows"), cast(box_encoder_(batch.at("box_in")), x_NC.dtype()));
  return x_NC;
}

SequenceContext TpoModel::context(const Batch& batch, RngKey dropout_key) const {
  SequenceContext context{batch.at("cu_seqlens"), batch.at("positions"), {}};
  if (drops(batch)) context.dropout = {dropout_key, batch.at("row_ids")};
  return context;
}

Tensor TpoModel::forward(const Batch& batch, RngKey dropout_key) const {
  return language_(embed(batch, dropout_key), context(batch, dropout_key));
}

TpoModel::Losses TpoModel::loss(const Batch& batch, const Scales& scales, RngKey dropout_key) const {
  const bool has_regions = has_pair(batch, "region_rows", "region_targets");
  const Tensor& targets = batch.at("targets");
  const SequenceContext sequences = context(batch, dropout_key);
  const Tensor hidden_NC = language_(embed(batch, dropout_key), sequences);
  Losses losses;
  if (has_regions) {
    const Tensor e_RC = gather_rows(hidden_NC, batch.at("region_rows"));
    losses.region = region_loss(region_(e_RC), batch.at("region_targets"), config_.region, scales.region);
  }
  // Last, so that the gradients which the fused loss holds are used at once.
  losses.lm = language_.loss(hidden_NC, targets, scales.lm, sequences.dropout);
  losses.total = has_regions ? add(losses.lm, losses.region) : losses.lm;
  return losses;
}

Tensor TpoModel::predict_boxes(const Batch& batch) const {
  const NoGradScope no_grad;
  return region_(gather_rows(forward(batch, RngKey()), batch.at("region_rows")));
}

uint64_t TpoModel::groups_used(bool has_image, bool has_region_target, bool has_box_input,
                               bool has_connector_text) const {
  const auto bit = [](int group) { return uint64_t{1} << group; };
  uint64_t used = bit(0);
  if (has_image) used |= bit(groups_.vision);
  if (has_image && has_connector_text && groups_.connector_text >= 0) used |= bit(groups_.connector_text);
  if (has_region_target) used |= bit(groups_.token_box) | bit(groups_.head_region);
  if (has_box_input) used |= bit(groups_.box_input);
  return used;
}

std::optional<PictureTiling> TpoModel::tiling() const {
  const ConnectorConfig& c = config_.connector;
  if (!c.tile_pictures) return std::nullopt;
  return PictureTiling{config_.vision.image_size, vision_->grid(1, 1).height, c.tiling};
}

int64_t TpoModel::visual_slots_per_media(int64_t frames) const { return connector_->slots(vision_->grid(1, frames)); }

}  // namespace tpo
