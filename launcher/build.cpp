#include "launcher/build.h"

#include <algorithm>

#include "data/length_index.h"
#include "data/tokenizer/load_tokenizer.h"
#include "model/presets.h"
#include "parallel/comm/sim.h"

namespace tpo {

namespace {

void override_vision(const config::Vision& v, VisionConfig& out) {
  if (v.has_image_size()) out.image_size = v.image_size();
  if (v.has_patch()) out.patch = v.patch();
  if (v.has_frames()) out.frames = out.clip_frames = v.frames();
  if (v.has_clip_frames()) out.clip_frames = v.clip_frames();
  if (v.has_width()) out.width = v.width();
  if (v.has_heads()) out.heads = v.heads();
  if (v.has_depth()) out.depth = v.depth();
  if (v.has_mlp_hidden()) out.mlp_hidden = v.mlp_hidden();
  if (v.has_kind()) out.kind = v.kind() == "siglip" ? VisionConfig::Kind::kSiglip : VisionConfig::Kind::kUmt;
}

void override_connector(const config::Connector& given, ConnectorConfig& out) {
  if (given.has_merge()) out.kind = ConnectorConfig::Kind::kLinear;  // as in configurations older than the field kind
  if (given.has_kind())
    out.kind = given.kind() == "qformer" ? ConnectorConfig::Kind::kQFormer
               : given.kind() == "mlp"   ? ConnectorConfig::Kind::kMlp
                                         : ConnectorConfig::Kind::kLinear;
  if (given.has_merge()) out.merge = given.merge();
  if (out.kind != ConnectorConfig::Kind::kMlp) out.tile_pictures = false;  // the preset's, of another kind
  if (given.tiling().has_on()) out.tile_pictures = given.tiling().on();
  if (given.tiling().has_max_side()) out.tiling.max_side = given.tiling().max_side();
  if (given.tiling().has_max_tiles()) out.tiling.max_tiles = given.tiling().max_tiles();
  const config::QFormer& q = given.qformer();
  QFormerConfig& to = out.qformer;
  if (q.has_layers()) to.layers = q.layers();
  if (q.has_width()) to.width = q.width();
  if (q.has_heads()) to.heads = q.heads();
  if (q.has_mlp_hidden()) to.mlp_hidden = q.mlp_hidden();
  if (q.has_cross_every()) to.cross_every = q.cross_every();
  if (q.has_queries()) to.queries = q.queries();
  if (q.has_extra_queries()) to.extra_queries = q.extra_queries();
  if (q.has_text_vocab()) to.text_vocab = q.text_vocab();
  if (q.has_text_positions()) to.text_positions = q.text_positions();
  if (q.has_dropout()) to.dropout = q.dropout();
  if (q.has_attention_dropout()) to.attention_dropout = q.attention_dropout();
  if (q.has_drop_path()) to.drop_path = q.drop_path();
}

// Fields that are given and that the kind of connector does not read, each as a sentence.
std::vector<std::string> unread_fields(const config::Connector& given, ConnectorConfig::Kind kind) {
  using Kind = ConnectorConfig::Kind;
  const config::Tiling& tiling = given.tiling();
  std::vector<std::string> unread;
  for (const auto& [has, name, reader, reads] :
       {std::tuple{given.has_merge(), "merge", "linear", Kind::kLinear},
        {given.qformer().ByteSizeLong() > 0, "qformer", "qformer", Kind::kQFormer},
        {tiling.has_max_side() || tiling.has_max_tiles(), "tiling", "mlp", Kind::kMlp}})
    if (has && kind != reads)
      unread.push_back(
          cat("connector.", name, " is given, which only connector.kind ", reader, " reads; leave it out"));
  return unread;
}

void resolve_connector(const ConnectorConfig& c, config::Connector& out) {
  if (c.kind == ConnectorConfig::Kind::kLinear) {
    out.set_kind("linear"), out.clear_qformer(), out.clear_tiling();
    return out.set_merge(static_cast<int32_t>(c.merge));
  }
  out.clear_merge();
  if (c.kind == ConnectorConfig::Kind::kMlp) {
    out.mutable_tiling()->set_on(c.tile_pictures);
    out.mutable_tiling()->set_max_side(static_cast<int32_t>(c.tiling.max_side));
    out.mutable_tiling()->set_max_tiles(static_cast<int32_t>(c.tiling.max_tiles));
    return out.clear_qformer(), out.set_kind("mlp");
  }
  out.clear_tiling(), out.set_kind("qformer");
  config::QFormer& q = *out.mutable_qformer();
  q.set_layers(static_cast<int32_t>(c.qformer.layers));
  q.set_width(static_cast<int32_t>(c.qformer.width));
  q.set_heads(static_cast<int32_t>(c.qformer.heads));
  q.set_mlp_hidden(static_cast<int32_t>(c.qformer.mlp_hidden));
  q.set_cross_every(static_cast<int32_t>(c.qformer.cross_every));
  q.set_queries(static_cast<int32_t>(c.qformer.queries));
  q.set_extra_queries(static_cast<int32_t>(c.qformer.extra_queries));
  q.set_text_vocab(static_cast<int32_t>(c.qformer.text_vocab));
  q.set_text_positions(static_cast<int32_t>(c.qformer.text_positions));
  q.set_dropout(c.qformer.dropout);
  q.set_attention_dropout(c.qformer.attention_dropout);
  q.set_drop_path(c.qformer.drop_path);
}

void override_language(const config::Language& l, LanguageConfig& out) {
  if (l.has_width()) out.width = l.width();
  if (l.has_layers()) out.layers = l.layers();
  if (l.has_heads()) out.heads = l.heads();
  if (l.has_kv_heads()) out.kv_heads = l.kv_heads();
  if (l.has_head_dim()) out.head_dim = l.head_dim();
  if (l.has_mlp_hidden()) out.mlp_hidden = l.mlp_hidden();
  if (l.has_qkv_bias()) out.qkv_bias = l.qkv_bias();
  if (l.has_table_rows()) out.table_rows = l.table_rows();
  if (l.has_rope_theta()) out.rope_theta = l.rope_theta();
  if (l.has_rms_eps()) out.rms_eps = l.rms_eps();
  if (l.has_weight_std()) out.weight_std = l.weight_std();
  if (l.has_embed_std()) out.embed_std = l.embed_std();
  if (l.has_lora_rank()) out.lora_rank = l.lora_rank();
  if (l.has_lora_alpha()) out.lora_alpha = l.lora_alpha();
  if (l.has_lora_dropout()) out.lora_dropout = l.lora_dropout();
  if (l.has_detach_embeddings()) out.detach_embeddings = l.detach_embeddings();
  if (l.has_train_new_rows()) out.train_new_rows = l.train_new_rows();
}

TextBesideMedia text_beside_media(const std::string& name) {
  if (name == "none") return TextBesideMedia::kNone;
  return name == "frame_times"   ? TextBesideMedia::kFrameTimes
         : name == "instruction" ? TextBesideMedia::kInstruction
                                 : TextBesideMedia::kInstructionOfAll;
}

// The model without memory, for questions about names and shapes.
struct MetaModel {
  explicit MetaModel(const config::RunConfig& config, int64_t vocab = 1 << 15)
      : ranks(std::max(1, config.layout().tensor())),
        store(config.run().seed(), make_precision(config).weights),
        model(store, make_model_config(config, vocab), *tensor) {}
  int ranks;  // of the tensor axis
  std::unique_ptr<Stream> stream = Stream::make_meta();
  StreamScope scope{*stream};
  std::unique_ptr<ProcessGroup> tensor = make_simulated(0, ranks, nullptr, "tensor");
  ParamStore store;
  TpoModel model;
};

}  // namespace

TpoConfig make_model_config(const config::RunConfig& config, int64_t vocab) {
  const auto& m = config.model();
  TpoConfig out = preset(m.preset());
  override_vision(m.vision(), out.vision);
  override_connector(m.connector(), out.connector);
  override_language(m.language(), out.language);
  out.language.vocab = vocab;
  if (m.region().has_hidden()) out.region.hidden = m.region().hidden();
  if (m.region().has_box_loss()) out.region.mse = m.region().box_loss() == "mse";
  out.task_token_stddev = m.task_token_std();
  out.vision.sequence_parallel = out.language.sequence_parallel = config.layout().sequence_parallel();
  out.vision.recompute = out.language.recompute = m.recompute() == "full"        ? Recompute::kFull
                                                  : m.recompute() == "selective" ? Recompute::kSelective
                                                                                 : Recompute::kNone;
  std::vector<std::string> found = config_problems(out);
  for (std::string& p : unread_fields(m.connector(), out.connector.kind)) found.push_back(std::move(p));
  std::string problems;
  for (const auto& p : found) problems += (problems.empty() ? "model: " : "\n  model: ") + p;
  check<ConfigError>(problems.empty(), problems);
  return out;
}

void resolve_model(config::RunConfig& config) {
  const TpoConfig c = make_model_config(config, 1 << 15);
  auto& m = *config.mutable_model();
  auto& v = *m.mutable_vision();
  v.set_image_size(static_cast<int32_t>(c.vision.image_size));
  v.set_patch(static_cast<int32_t>(c.vision.patch));
  v.set_frames(static_cast<int32_t>(c.vision.frames));
  v.set_clip_frames(static_cast<int32_t>(c.vision.clip_frames));
  v.set_width(static_cast<int32_t>(c.vision.width));
  v.set_heads(static_cast<int32_t>(c.vision.heads));
  v.set_depth(static_cast<int32_t>(c.vision.depth));
  v.set_mlp_hidden(static_cast<int32_t>(c.vision.mlp_hidden));
  v.set_kind(c.vision.kind == VisionConfig::Kind::kUmt ? "umt" : "siglip");
  resolve_connector(c.connector, *m.mutable_connector());
  auto& l = *m.mutable_language();
  l.set_width(static_cast<int32_t>(c.language.width));
  l.set_layers(static_cast<int32_t>(c.language.layers));
  l.set_heads(static_cast<int32_t>(c.language.heads));
  l.set_kv_heads(static_cast<int32_t>(c.language.kv_heads));
  l.set_head_dim(static_cast<int32_t>(c.language.head_dim));
  l.set_mlp_hidden(static_cast<int32_t>(c.language.mlp_hidden));
  l.set_qkv_bias(c.language.qkv_bias);
  l.set_table_rows(static_cast<int32_t>(c.language.table_rows));
  l.set_rope_theta(c.language.rope_theta);
  l.set_rms_eps(c.language.rms_eps);
  l.set_weight_std(c.language.weight_std);
  l.set_embed_std(c.language.embed_std);
  l.set_lora_rank(static_cast<int32_t>(c.language.lora_rank));
  l.set_lora_alpha(c.language.lora_alpha);
  l.set_lora_dropout(c.language.lora_dropout);
  l.set_detach_embeddings(c.language.detach_embeddings);
  l.set_train_new_rows(c.language.train_new_rows);
  m.mutable_region()->set_hidden(static_cast<int32_t>(c.region.hidden));
  m.mutable_region()->set_box_loss(c.region.mse ? "mse" : "l1_giou");
}

namespace {

// Tiling is younger than the first fingerprints, and with or without it the model is the same function of views.
void clear_usual_tiling(config::Connector* connector) {
  config::Tiling& tiling = *connector->mutable_tiling();
  const TilingConfig usual;
  if (!tiling.on() || tiling.max_side() == usual.max_side) tiling.clear_max_side();
  if (!tiling.on() || tiling.max_tiles() == usual.max_tiles) tiling.clear_max_tiles();
  tiling.clear_on();
  if (tiling.ByteSizeLong() == 0) connector->clear_tiling();
}

}  // namespace

std::string model_fingerprint(const config::RunConfig& config, int64_t vocab) {
  config::RunConfig c = config;
  resolve_model(c);
  // Not part of the function: how weights started, what is recomputed, what is dropped or trained, how many frames
  // clips have.
  auto& m = *c.mutable_model();
  m.clear_preset();
  m.clear_recompute();
  m.clear_task_token_std();
  m.mutable_vision()->clear_clip_frames();
  m.mutable_region()->clear_box_loss();
  if (m.connector().has_tiling()) clear_usual_tiling(m.mutable_connector());
  if (m.connector().has_qformer()) {
    m.mutable_connector()->mutable_qformer()->clear_dropout();
    m.mutable_connector()->mutable_qformer()->clear_attention_dropout();
    m.mutable_connector()->mutable_qformer()->clear_drop_path();
  }
  // Younger than the first checkpoints, whose fingerprints have none of these.
  if (m.vision().kind() == "umt") m.mutable_vision()->clear_kind();
  if (m.connector().kind() == "linear") m.mutable_connector()->clear_kind();
  auto& l = *m.mutable_language();
  if (!l.qkv_bias()) l.clear_qkv_bias();
  if (l.table_rows() == 0) l.clear_table_rows();
  l.clear_weight_std();
  l.clear_embed_std();
  l.clear_lora_dropout();
  l.clear_detach_embeddings();
  l.clear_train_new_rows();
  return cat(m.ShortDebugString(), " vocab: ", vocab);
}

std::vector<NamedShape> parameter_shapes(const config::RunConfig& config, int64_t vocab) {
  const MetaModel meta(config, vocab);
  std::vector<NamedShape> out;
  for (const auto& p : meta.store.params()) out.push_back({p->name, p->full});
  return out;
}

std::unique_ptr<Templates> make_templates(const config::RunConfig& config, const Tokenizer& tokenizer) {
  const MetaModel meta(config);
  const VisionConfig& vision = meta.model.config().vision;
  TemplateOptions options;
  options.max_tokens = config.data().max_tokens();
  options.image_slots = static_cast<int32_t>(meta.model.visual_slots_per_media(vision.tubelet));
  options.clip_slots = static_cast<int32_t>(meta.model.visual_slots_per_media(vision.clip_frames));
  options.tiling = meta.model.tiling();
  options.clip_frames = static_cast<int32_t>(vision.clip_frames);
  const std::string& message = config.data().frame_message();
  options.frame_message = message == "never"    ? FrameMessage::kNever
                          : message == "always" ? FrameMessage::kAlways
                                                : FrameMessage::kTemporalAndHalf;
  std::shared_ptr<const Tokenizer> beside_media;
  if (const ConnectorTexts texts = connector_texts(config); texts.longest > 0) {
    options.beside_media = text_beside_media(config.data().connector_text());
    options.beside_media_tokens = static_cast<int32_t>(texts.longest);
    const bool any = config.checkpoint().allow_other_tokenizer();
    beside_media = load_tokenizer(
        config.data().connector_tokenizer(),
        {.more_tokens = {}, .vocab_size = 0, .fingerprint = any ? 0 : config.data().connector_tokenizer_fingerprint()});
    const int64_t rows = meta.model.config().connector.qformer.text_vocab;
    check<ConfigError>(beside_media->vocab_size() <= rows, "data.connector_tokenizer ",
                       config.data().connector_tokenizer(), " has ", beside_media->vocab_size(),
                       " pieces, more than model.connector.qformer.text_vocab = ", rows);
  }
  options.bos_per_segment = config.data().bos_per_segment();
  const std::string& chat = config.data().chat();
  options.chat = chat == "auto"     ? chat_format_of(tokenizer)
                 : chat == "chatml" ? ChatFormat::kChatMl
                                    : ChatFormat::kMistral;
  return std::make_unique<Templates>(tokenizer, options, std::move(beside_media));
}

ConnectorTexts connector_texts(const config::RunConfig& config) {
  const auto& d = config.data();
  if (d.connector_text() == "none") {
    check<ConfigError>(d.connector_tokenizer().empty(), "data.connector_tokenizer is ", d.connector_tokenizer(),
                       ", but data.connector_text is none, so that nothing reads it; legal: a connector_text, or \"\"");
    return {};
  }
  const ConnectorConfig c = make_model_config(config, 1).connector;
  check<ConfigError>(c.kind == ConnectorConfig::Kind::kQFormer && c.qformer.text_vocab > 0, "data.connector_text is ",
                     d.connector_text(),
                     "; only connector.kind qformer with connector.qformer.text_vocab above 0 reads ",
                     "texts beside media");
  check<ConfigError>(!d.connector_tokenizer().empty(), "data.connector_text is ", d.connector_text(),
                     "; data.connector_tokenizer must name its tokenizer, for example BERT's vocab.txt");
  constexpr int64_t kLongest = 512;  // of the released code
  check<ConfigError>(c.qformer.text_positions >= 3, "model.connector.qformer.text_positions is ",
                     c.qformer.text_positions, "; a text has two marks, so that it must be at least 3");
  return {std::min(kLongest, c.qformer.text_positions), d.connector_text() == "instruction_of_all"};
}

VisualSlots visual_slots(const config::RunConfig& config, int64_t frames) {
  const MetaModel meta(config);
  return {meta.model.visual_slots_per_media(frames), meta.model.tiling()};
}

CollateOptions make_collate_options(const config::RunConfig& config) {
  const MetaModel meta(config);
  const TpoConfig& model = meta.model.config();
  CollateOptions options;
  options.tiling = meta.model.tiling();
  options.image_size = static_cast<int>(model.vision.image_size);
  if (model.vision.kind == VisionConfig::Kind::kSiglip) options.pixels = kSignedScale;
  options.clip_frames = static_cast<int>(model.vision.clip_frames);
  options.frames = CollateOptions::Frames::kRandom;
  options.key = RngKey(config.run().seed()).with("frames");
  options.blind = config.data().blind();
  return options;
}

GenerateOptions make_generate_options(const config::RunConfig& config) {
  const auto& g = config.eval().generation();
  GenerateOptions o;
  o.max_new_tokens = config.eval().max_new_tokens();
  o.min_new_tokens = g.min_new_tokens();
  o.sample = g.mode() == "sample";
  o.key = RngKey(g.seed());
  o.num_beams = g.num_beams();
  o.length_penalty = g.length_penalty();
  o.early_stopping = g.early_stopping() == "yes"     ? EarlyStopping::kYes
                     : g.early_stopping() == "never" ? EarlyStopping::kNever
                                                     : EarlyStopping::kNo;
  o.rules = {g.repetition_penalty(), g.no_repeat_ngram(), g.temperature(), g.top_k(), g.top_p()};
  o.rules_see_prompt = g.rules_see_prompt();
  o.state_without_trigger = g.state_without_trigger();
  std::vector<std::string> problems = generate_problems(o);
  if (g.mode() == "greedy" && o.num_beams != 1)
    problems.push_back(cat("num_beams is ", o.num_beams, " with mode greedy; set mode = \"beam\", or num_beams = 1"));
  if (g.mode() == "beam" && o.num_beams == 1)
    problems.push_back("num_beams is 1 with mode beam; it must be at least 2");
  std::string all;
  for (const auto& p : problems) all += (all.empty() ? "eval.generation: " : "\n  eval.generation: ") + p;
  check<ConfigError>(all.empty(), all);
  return o;
}

GenerateOptions make_generate_options(const config::RunConfig& config, const Tokenizer& tokenizer) {
  GenerateOptions o = make_generate_options(config);
  o.eos_id = tokenizer.eos();
  o.never = tokenizer.empty_ids();
  for (const std::string& stop : config.eval().generation().stop()) {
    const std::vector<int32_t> alone = tokenizer.encode_with_special(stop);
    check<ConfigError>(!alone.empty(), "eval.generation.stop: '", stop, "' has no tokens; leave it out");
    o.stop_sequences.push_back(alone);
    // Behind other text a tokenizer may write it otherwise: without the space that SentencePiece puts in front.
    const std::vector<int32_t> before = tokenizer.encode("."), both = tokenizer.encode_with_special("." + stop);
    if (both.size() <= before.size() || !std::equal(before.begin(), before.end(), both.begin())) continue;
    std::vector<int32_t> behind(both.begin() + static_cast<int64_t>(before.size()), both.end());
    if (behind != alone) o.stop_sequences.push_back(std::move(behind));
  }
  return o;
}

LrSchedule make_lr_schedule(const config::RunConfig& config) {
  const auto& o = config.optimizer();
  LrSchedule s;
  s.base = o.lr();
  s.total_steps = config.train().steps();
  s.warmup_steps = static_cast<int64_t>(o.warmup_ratio() * static_cast<double>(s.total_steps));
  s.floor_ratio = o.floor_ratio();
  return s;
}

void apply_training_rules(const config::RunConfig& config, ParamStore& store) {
  std::string unmatched;
  const auto need = [&](int matched, const std::string& field, const std::string& pattern) {
    if (matched == 0)
      unmatched += cat(unmatched.empty() ? "" : "\n  ", field, ": pattern \"", pattern,
                       "\" matches no parameter; names look like ", store.params().front()->name, " and ",
                       store.params().back()->name);
  };
  for (const auto& p : config.train().freeze()) need(store.set_trainable(p, false), "train.freeze", p);
  for (const auto& p : config.train().train()) need(store.set_trainable(p, true), "train.train", p);
  for (const auto& rule : config.optimizer().lr_scale())
    need(store.set_lr_scale(rule.pattern(), static_cast<float>(rule.scale())), "optimizer.lr_scale", rule.pattern());
  check<ConfigError>(unmatched.empty(), unmatched);
  freeze_unread(store, make_model_config(config, 1), connector_texts(config).longest > 0);
  for (const auto& p : config.train().train())
    if (std::none_of(store.params().begin(), store.params().end(),
                     [&](const auto& param) { return param->trainable && glob_match(p, param->name); }))
      unmatched += cat(unmatched.empty() ? "" : "\n  ", "train.train: pattern \"", p,
                       "\" matches only parameters that no microbatch of this configuration reads or whose gradients "
                       "it cuts off (data.connector_text, model.language.detach_embeddings)");
  check<ConfigError>(unmatched.empty(), unmatched);
  check<ConfigError>(store.numel(true) > 0, "train.freeze leaves no parameter to train");
}

void check_training_rules(const config::RunConfig& config) {
  MetaModel model(config);
  apply_training_rules(config, model.store);
  plan_buckets(model.store, make_bucket_options(config));
}

Precision make_precision(const config::RunConfig& config) {
  const std::string& p = config.run().precision();
  check<ConfigError>(p == "fp32" || p == "bf16", "run.precision is ", p, "; legal: fp32, bf16");
  return {.weights = p == "bf16" ? DType::kBF16 : DType::kF32};
}

BucketOptions make_bucket_options(const config::RunConfig& config) {
  const auto& l = config.layout();
  BucketOptions options;
  options.bucket_bytes = l.bucket_bytes();
  options.precision = make_precision(config);
  options.sharding = static_cast<Sharding>(l.zero());
  options.reshard_after_forward = l.reshard_after_forward();
  options.prefetch_buckets = l.prefetch_buckets();
  for (const auto& rule : l.shard())
    options.rules.push_back({rule.pattern(), static_cast<Sharding>(rule.zero()), rule.reshard_after_forward()});
  return options;
}

MeshShape make_mesh_shape(const config::RunConfig& config, int ranks) {
  const auto& l = config.layout();
  const int rest = l.pipe() * l.tensor();
  return {l.pipe(), l.data() > 0 ? l.data() : std::max(1, ranks / rest), l.tensor(), l.shard_ranks()};
}

std::vector<LoaderDataset> TrainingData::loader_sets() const {
  std::vector<LoaderDataset> sets;
  for (const auto& f : folders) sets.push_back({f.get(), templates.get()});
  return sets;
}

namespace {

// Throws ConfigError for a dataset whose samples could meet in a microbatch that no encoder takes.
void check_apart(const std::string& path, const MixtureDataset& set, const TemplateOptions& options) {
  if (set.samples_per_microbatch == 1 || !options.pictures_apart()) return;
  const auto samples_with = [&](auto has) { return std::count_if(set.lengths.begin(), set.lengths.end(), has); };
  const auto clips = samples_with([](const LengthEntry& e) { return e.clips > 0; });
  const auto pictures = samples_with([](const LengthEntry& e) { return e.media > e.clips; });
  check<ConfigError>(clips == 0 || pictures == 0, "data.sets ", path, " has ", pictures, " samples with pictures and ",
                     clips, " with clips, which cannot be in one microbatch; legal: train.samples_per_microbatch = 1, ",
                     "or two datasets, one of each");
}

}  // namespace

TrainingData make_training_data(const config::RunConfig& config) {
  TrainingData data;
  data.tokenizer = make_tokenizer(config);
  data.vocab = data.tokenizer->vocab_size();
  data.templates = make_templates(config, *data.tokenizer);
  std::vector<MixtureDataset> mixture;
  for (const auto& set : config.data().sets()) {
    data.folders.push_back(std::make_unique<DatasetFolder>(set.path()));
    const DatasetFolder& folder = *data.folders.back();
    check<ConfigError>(folder.task() == "region" || folder.task() == "conversation", "data.sets ", set.path(),
                       ": its task is ", folder.task(),
                       ", which this version stores but cannot train; legal: region, conversation");
    mixture.push_back({folder.name(), set.weight(), load_length_index(folder, *data.templates),
                       config.train().samples_per_microbatch(), set.first_step(), set.end_step()});
    check_apart(set.path(), mixture.back(), data.templates->options());
  }
  // Evaluation counts nothing beforehand; what it would stop at hours later is found here.
  for (const auto& set : config.data().eval_sets()) load_length_index(DatasetFolder(set.path()), *data.templates);
  data.mixer = std::make_unique<Mixer>(config.run().seed(), std::move(mixture), config.train().microbatches_per_step());
  return data;
}

}  // namespace tpo
