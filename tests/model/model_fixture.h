#pragma once
// What the tests of model/ share: a model small enough for finite differences, batches of packed samples, gradients by
// name.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "core/connector_text.h"
#include "model/tpo_model.h"
#include "parallel/comm/process_group.h"

namespace tpo::testing {

// Uniform in [-1, 1): the function noise() of golden/make_golden.py.
inline std::vector<float> noise(std::string_view name, int64_t n) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (const char c : name) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  std::vector<float> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(mix64(h + i) >> 40) * 0x1p-23f - 1.0f;
  return out;
}

inline Tensor noise_tensor(std::string_view name, const Shape& shape) {
  return Tensor::from(noise(name, shape.numel()), shape);
}

// Elements of an f32 or bf16 tensor.
inline std::vector<float> floats(const Tensor& t) {
  if (t.dtype() == DType::kF32) return t.to_vector<float>();
  std::vector<float> out;
  for (const BF16 v : t.to_vector<BF16>()) out.push_back(static_cast<float>(v));
  return out;
}

inline float to_bf16(float v) { return static_cast<float>(BF16(v)); }

// Of the elements of a whole parameter those that its value holds.
inline std::vector<float> elements_of(const std::vector<float>& whole, const Param& p) {
  std::vector<float> out;
  const int64_t width = whole_of(p.full).cols;
  for (const Rect& part : p.rects())
    for (int64_t r = part.row; r < part.row + part.rows; ++r)
      for (int64_t c = part.col; c < part.col + part.cols; ++c)
        out.push_back(whole[static_cast<size_t>(r * width + c)]);
  return out;
}

// The function value() of golden/make_golden.py for every parameter: unit-gain matrices, norm gains around 1, biases
// around 0. Unlike fresh weights it leaves nothing at zero that a gradient would then miss. Matrices are multiplied by
// `matrix_gain`: at 0.5 gradients answer the last bit of a weight with a few of their own; at 1 with a thousand.
// rounded: to bf16, in fp32 storage too.
inline void fill_with_noise(ParamStore& store, float matrix_gain = 1, bool rounded = false) {
  for (const auto& p : store.params()) {
    const std::vector<float> u = noise(p->name, p->full.numel());
    const bool matrix = p->full.rank() == 2, gain = !matrix && p->name.ends_with("weight");
    const float factor = matrix ? matrix_gain * std::sqrt(3.0f / static_cast<float>(p->full[1])) : 0.3f;
    std::vector<float> values = elements_of(u, *p);
    for (float& v : values) v = (gain ? 1.0f : 0.0f) + factor * v;
    if (rounded) std::transform(values.begin(), values.end(), values.begin(), to_bf16);
    if (p->value.dtype() == DType::kF32) {
      std::copy(values.begin(), values.end(), p->value.data<float>());
    } else {
      std::transform(values.begin(), values.end(), p->value.data<BF16>(), [](float v) { return BF16(v); });
    }
  }
}

inline double max_abs(const std::vector<float>& v) {
  double m = 0;
  for (const float x : v) m = std::max(m, std::abs(static_cast<double>(x)));
  return m;
}

// max |a - b| / max |b|; infinite if the sizes differ, the plain difference if b is all zero.
inline double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double d = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double e = std::abs(static_cast<double>(a[i]) - b[i]);
    d = e <= d ? d : e;  // keeps NaN
  }
  const double scale = max_abs(b);
  return scale > 0 ? d / scale : d;
}

using Gradients = std::map<std::string, std::vector<float>>;

// Gradients of every parameter that received one since the last call, and forgets them.
inline Gradients take_gradients(const ParamStore& store) {
  Gradients out;
  for (const auto& p : store.params()) {
    if (p->grad_written) out[p->name] = p->grad.to_vector<float>();
    p->grad_written = false;
  }
  return out;
}

// Two layers of everything, no width equal to another.
inline TpoConfig tiny_config() {
  TpoConfig c;
  c.vision = {
      .image_size = 8, .patch = 2, .frames = 2, .tubelet = 1, .width = 16, .heads = 2, .depth = 2, .mlp_hidden = 40};
  c.connector.merge = 2;
  c.language.vocab = 29;
  c.language.width = 24, c.language.layers = 2, c.language.heads = 4, c.language.kv_heads = 2;
  c.language.head_dim = 6, c.language.mlp_hidden = 44, c.language.rope_theta = 1e4f;
  c.language.lora_rank = 3, c.language.lora_alpha = 6;
  c.region.hidden = 10;
  c.box_encoder_hidden = 12;
  return c;
}

// The same with a Q-Former of 4 queries, as many as the linear connector's slots of a picture, that may read texts.
inline TpoConfig tiny_qformer_config() {
  TpoConfig c = tiny_config();
  c.connector.kind = ConnectorConfig::Kind::kQFormer;
  c.connector.qformer = {.layers = 3,
                         .width = 18,
                         .heads = 3,
                         .mlp_hidden = 22,
                         .queries = 3,
                         .extra_queries = 1,
                         .text_vocab = 11,
                         .text_positions = 6};
  return c;
}

// The other variant: pictures with a rest beyond the last patch, odd widths.
inline TpoConfig tiny_llava_config() {
  TpoConfig c = tiny_config();
  c.vision.kind = VisionConfig::Kind::kSiglip;
  c.vision.image_size = 11, c.vision.patch = 2, c.vision.width = 20, c.vision.heads = 4, c.vision.mlp_hidden = 41;
  c.connector.kind = ConnectorConfig::Kind::kMlp;
  c.connector.tiling = {.max_side = 3, .max_tiles = 2};
  c.language.qkv_bias = true, c.language.table_rows = 41, c.language.rope_theta = 1e6f;
  return c;
}

struct Rig {
  explicit Rig(const TpoConfig& config = tiny_config(), uint64_t seed = 7, DType storage = DType::kF32)
      : store(seed, storage), tp(make_single()), model(store, config, *tp) {}
  ParamStore store;
  std::unique_ptr<ProcessGroup> tp;
  TpoModel model;
};

// One sample: ids and what stands in its slots. Rows count from the sample's first.
struct Sample {
  std::vector<int32_t> tokens;
  std::vector<int32_t> visual_rows, region_rows, box_in_rows;
  std::vector<int32_t> targets;  // empty: next token everywhere
  int64_t frames = 1;
};

// A sample of `text` tokens with, in order, picture slots, a box input and region slots as asked.
inline Sample make_sample(const TpoModel& model, std::string_view name, int64_t text, bool picture, int regions,
                          bool box_input, int64_t frames = 1) {
  const TaskVocabulary v = model.vocabulary();
  const auto u = noise(name, text);
  const auto at = [&](int64_t i) { return static_cast<int32_t>((u[static_cast<size_t>(i)] + 1) * 0.5f * v.base); };
  Sample s;
  s.frames = frames;
  s.tokens.push_back(at(0));
  const auto slot = [&](std::vector<int32_t>& rows, int32_t id) {
    rows.push_back(static_cast<int32_t>(s.tokens.size()));
    s.tokens.push_back(id);
  };
  if (picture)
    for (int64_t i = 0; i < model.visual_slots_per_media(frames); ++i) slot(s.visual_rows, 0);
  if (box_input) slot(s.box_in_rows, v.track_box());
  for (int64_t i = 1; i < text; ++i) s.tokens.push_back(at(i));
  for (int i = 0; i < regions; ++i) {
    s.tokens.push_back(v.box_begin());
    slot(s.region_rows, v.boxes());
  }
  return s;
}

// Packs samples as data/collate does. Pictures and boxes are noise named by the sample's index from `first`, so that a
// sample packed alone with its own index is the same sample.
inline Batch pack(const TpoModel& model, const std::vector<Sample>& samples, int first = 0) {
  std::vector<int32_t> tokens, targets, positions, cu{0}, visual, regions, box_rows;
  std::vector<int64_t> row_ids;
  std::vector<float> images, boxes, region_boxes;
  const int64_t side = model.config().vision.image_size;
  int64_t media = 0, frames = 1;
  for (size_t k = 0; k < samples.size(); ++k) {
    const Sample& s = samples[k];
    const std::string name = "sample" + std::to_string(first + static_cast<int>(k));
    const auto begin = static_cast<int32_t>(tokens.size()), n = static_cast<int32_t>(s.tokens.size());
    for (int32_t i = 0; i < n; ++i) {
      const auto next = static_cast<size_t>(i) + 1;
      tokens.push_back(s.tokens[static_cast<size_t>(i)]);
      targets.push_back(!s.targets.empty() ? s.targets[static_cast<size_t>(i)] : i + 1 < n ? s.tokens[next] : -100);
      positions.push_back(i);
      row_ids.push_back((int64_t{first} + static_cast<int64_t>(k)) * 4096 + i);
    }
    cu.push_back(begin + n);
    const auto shifted = [&](std::vector<int32_t>& out, const std::vector<int32_t>& in) {
      for (const int32_t r : in) out.push_back(begin + r);
    };
    shifted(visual, s.visual_rows), shifted(regions, s.region_rows), shifted(box_rows, s.box_in_rows);
    const auto append = [&](std::vector<float>& out, const char* what, size_t count, bool box) {
      auto v = noise(name + what, static_cast<int64_t>(count));
      // Boxes: x1, y1 in [0, 0.4), x2, y2 in [0.5, 0.9).
      for (size_t i = 0; box && i < v.size(); ++i) v[i] = 0.2f + 0.2f * v[i] + (i % 4 >= 2 ? 0.5f : 0.0f);
      out.insert(out.end(), v.begin(), v.end());
    };
    if (!s.visual_rows.empty()) {
      append(images, ".image", static_cast<size_t>(s.frames * side * side * 3), false);
      ++media, frames = s.frames;
    }
    append(region_boxes, ".regions", 4 * s.region_rows.size(), true);
    append(boxes, ".box", 4 * s.box_in_rows.size(), true);
  }
  const auto vec = [](const auto& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); };
  Batch b;
  b.set("tokens", vec(tokens)), b.set("targets", vec(targets)), b.set("positions", vec(positions));
  b.set("cu_seqlens", vec(cu)), b.set("row_ids", vec(row_ids));
  if (media > 0) {
    b.set("images", Tensor::from(images, {media, frames, side, side, 3}));
    b.set("visual_rows", vec(visual));
  }
  if (!regions.empty()) {
    b.set("region_rows", vec(regions));
    b.set("region_targets", Tensor::from(region_boxes, {static_cast<int64_t>(regions.size()), 4}));
  }
  if (!box_rows.empty()) {
    b.set("box_in_rows", vec(box_rows));
    b.set("box_in", Tensor::from(boxes, {static_cast<int64_t>(box_rows.size()), 4}));
  }
  return b;
}

inline MicrobatchSize size_of_batch(const std::vector<Sample>& samples) {
  MicrobatchSize m;
  for (const Sample& s : samples) {
    m.sequences.push_back(static_cast<int64_t>(s.tokens.size()));
    m.media += !s.visual_rows.empty();
    if (!s.visual_rows.empty()) m.frames = s.frames;
    m.regions += static_cast<int64_t>(s.region_rows.size());
    m.box_inputs += static_cast<int64_t>(s.box_in_rows.size());
    m.loss_rows += static_cast<int64_t>(s.tokens.size()) - 1;
  }
  return m;
}

// Adds a text of the connector to each medium of a batch, with the row id of the medium's first slot, as data/collate.
inline void set_connector_text(Batch& batch, const std::vector<std::vector<int32_t>>& texts) {
  HostBatch host;
  const int64_t slots = batch.at("visual_rows").numel() / static_cast<int64_t>(texts.size());
  std::vector<int64_t> first(texts.size());
  if (batch.has("row_ids") && batch.at("row_ids").device() != Device::kMeta) {
    const auto all = batch.at("row_ids").to_vector<int64_t>();
    const auto rows = batch.at("visual_rows").to_vector<int32_t>();
    for (size_t i = 0; i < first.size(); ++i) first[i] = all[static_cast<size_t>(rows[i * static_cast<size_t>(slots)])];
  }
  add_connector_text(host, texts, slots, first);
  const Batch text = upload(host);
  for (const auto& [name, tensor] : text.tensors()) batch.set(name, tensor);
}

// Loss with gradients in the parameters.
inline float run_loss(const TpoModel& model, const Batch& batch, const TpoModel::Scales& scales,
                      RngKey dropout_key = RngKey(1)) {
  Tape tape;
  const TapeScope scope(tape);
  const TpoModel::Losses losses = model.loss(batch, scales, dropout_key);
  tape.backward(losses.total);
  return losses.total.device() == Device::kMeta ? 0.0f : losses.total.item();
}

// Loss alone; draws no dropout.
inline double loss_only(const TpoModel& model, const Batch& batch, const TpoModel::Scales& scales) {
  const NoGradScope no_grad;
  const TpoModel::Losses losses = model.loss(batch, scales, RngKey(1));
  return static_cast<double>(losses.lm.item()) + (losses.region.defined() ? losses.region.item() : 0.0f);
}

}  // namespace tpo::testing
