#pragma once
// TpoModel: vision encoder, connector, language model, task tokens and heads; routes a microbatch to exactly the parts
// it needs. The parameters belong to the ParamStore, which outlives the model. Used by one rank thread.
//
// Arrays of a Batch (N packed rows, S sequences, I media, R region slots, K box inputs):
//   tokens (N) i32, positions (N) i32 from 0 per sequence, cu_seqlens (S+1) i32      always
//   targets (N) i32: label of the NEXT position or -100; row_ids (N) i64             loss() only
//   images (I, T, H, W, 3) f32, visual_rows (I * slots) i32 in media order           together or not at all
//     extents "picture_sizes", kMlp: width and height in pixels of each picture that is tiled; images are then the
//     views of all pictures (cut_views, normalised), T = 1, and visual_rows the slots of tile_layout
//   connector_text.{ids,positions,medium} (M) i32, .joint_cu (I+1) i32, .{order,back} (I * slots + M) i32, .row_ids (M)
//     i64: ConnectorText, with a Q-Former only           all or none; .row_ids loss() only
//   region_rows (R) i32: rows of <boxes>; region_targets (R, 4) f32 xyxy in 0..1     targets: loss() only
//   box_in_rows (K) i32: rows of <track_box>; box_in (K, 4) f32                      together or not at all
// The rows named are overwritten after the embedding lookup; the state that a head reads is the one at the slot itself,
// after the final norm.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/batch.h"
#include "model/connector/qformer.h"
#include "model/heads/box_encoder.h"
#include "model/heads/region.h"
#include "model/heads/task_tokens.h"
#include "model/language/decoder.h"

namespace tpo {

struct ConnectorConfig {
  enum class Kind { kLinear, kQFormer, kMlp } kind = Kind::kLinear;
  int64_t merge = 1;  // kLinear: patches per side that share a slot; divides image_size / patch
  QFormerConfig qformer = {};
  TilingConfig tiling = {};    // kMlp
  bool tile_pictures = false;  // kMlp: for those who make batches; the model takes pictures whole and in tiles
};

struct TpoConfig {
  VisionConfig vision;
  ConnectorConfig connector;
  LanguageConfig language;
  RegionConfig region;
  int64_t box_encoder_hidden = 0;
  float task_token_stddev = 0.02f;  // the public code draws from N(0, 1); embeddings here are far smaller
};

// Every illegal value as one sentence that names the field and what would be legal; empty if the model can be built.
std::vector<std::string> config_problems(const TpoConfig& config);

// kExecuted: with all that is computed a second time (recomputed blocks, attention's scores in backward): what the
// machine does, for hardware FLOPs utilisation. kModel: without, for model FLOPs utilisation.
enum class Flops { kExecuted, kModel };

// Sizes of one microbatch, for the count of floating point operations.
struct MicrobatchSize {
  std::vector<int64_t> sequences;             // rows of each packed sequence
  int64_t media = 0, frames = 1;              // as the encoder sees them: each view of a tiled picture counts
  std::vector<PictureSize> pictures = {};     // those that are tiled: all, or none
  std::vector<int64_t> connector_texts = {};  // tokens of each medium's text; empty: none has one
  int64_t regions = 0, box_inputs = 0;
  int64_t loss_rows = 0;  // rows with a label
};

// Freezes what no microbatch gives a gradient: a detached embedding, what a Q-Former's last layer has for texts, and
// all that it has for texts where none come. A trainable parameter that is never reached is an error of the
// data-parallel layer, so this follows every change of what trains.
void freeze_unread(ParamStore& store, const TpoConfig& config, bool has_connector_texts);

class TpoModel {
 public:
  // weight / (count over the whole step, all ranks) of each loss: the loss of a step is then a plain sum.
  struct Scales {
    float lm = 0;      // per row with a label
    float region = 0;  // per region slot
  };
  struct Losses {
    Tensor total;   // (1)
    Tensor lm;      // (1)
    Tensor region;  // (1), undefined without region slots
  };

  // Creates all parameters, in groups: trunk (language model), vision (encoder and connector), connector.text,
  // token.box, token.temporal, token.track, box_input, head.region. Throws ConfigError with every problem of the
  // configuration.
  TpoModel(ParamStore& store, const TpoConfig& config, ProcessGroup& tp);
  TpoModel(const TpoModel&) = delete;
  TpoModel& operator=(const TpoModel&) = delete;

  // Records on the current tape, if there is one. Throws ShapeError that names a missing or ill-shaped array.
  Losses loss(const Batch& batch, const Scales& scales, RngKey dropout_key) const;

  // Input rows of the language model (N, C): embeddings with every slot overwritten. Dropout as in forward.
  Tensor embed(const Batch& batch, RngKey dropout_key = {}) const;
  // States after the final norm (N, C). Dropout is drawn only while a tape records and the batch has row_ids.
  Tensor forward(const Batch& batch, RngKey dropout_key) const;
  // Boxes at region_rows (R, 4), unclamped, not recorded: teacher-forced prediction.
  Tensor predict_boxes(const Batch& batch) const;

  // Bit g is set if parameter group g takes part in a microbatch that has these arrays; texts need pictures.
  uint64_t groups_used(bool has_image, bool has_region_target, bool has_box_input,
                       bool has_connector_text = false) const;
  // Rows of `tokens` that a medium of `frames` frames fills.
  int64_t visual_slots_per_media(int64_t frames = 1) const;
  // How pictures are tiled, if they are.
  std::optional<PictureTiling> tiling() const;
  // Floating point operations of loss() and its backward in matrix products and attention, with what is frozen left
  // out; elementwise work is not counted. All of the model, however it is cut over ranks.
  int64_t flops(const MicrobatchSize& size, Flops which = Flops::kExecuted) const;

  void merge_lora() { language_.merge_lora(); }
  void unmerge_lora() { language_.unmerge_lora(); }

  const TpoConfig& config() const { return config_; }
  TaskVocabulary vocabulary() const { return {static_cast<int32_t>(config_.language.vocab)}; }
  const VisionEncoder& vision() const { return *vision_; }
  const Connector& connector() const { return *connector_; }
  const Decoder& language() const { return language_; }
  const TaskTokens& task_tokens() const { return tokens_; }
  const RegionHead& region_head() const { return region_; }
  const BoxEncoder& box_encoder() const { return box_encoder_; }

 private:
  struct Groups {
    int vision, connector_text, token_box, head_region, box_input;  // connector_text -1: it reads no texts
  };

  SequenceContext context(const Batch& batch, RngKey dropout_key) const;
  Tensor visual_slots(const Batch& batch, RngKey dropout_key) const;

  TpoConfig config_;
  std::unique_ptr<VisionEncoder> vision_;
  std::unique_ptr<Connector> connector_;
  // In the order of first use: gradients become complete in the reverse order of creation, and buckets wait for it.
  TaskTokens tokens_;
  BoxEncoder box_encoder_;
  Decoder language_;
  RegionHead region_;
  Groups groups_{};
};

}  // namespace tpo
