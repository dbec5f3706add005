#pragma once
// What the tests of the tensor axis share, under rank threads and under mpirun: models whose sizes do not divide, and
// the comparison of parts with a whole. Comparisons return what is wrong, or an empty string.
#include "model/generate.h"
#include "tests/model/model_fixture.h"

namespace tpo::testing {

// The same on all ranks: empty if all have the same bits.
inline std::string other_bits(ProcessGroup& tp, const std::vector<float>& v, const std::string& what) {
  for (const auto all = tp.all_gather_bytes(std::as_bytes(std::span(v)), what); const auto& other : all)
    if (other != all[0]) return what + " has other bits on another rank";
  return "";
}

// Gradients of the parts of this rank against those elements of the whole. `tolerance`: of the largest whole gradient.
inline std::string other_parts(ProcessGroup& tp, const ParamStore& store, const Gradients& mine,
                               const ParamStore& whole_store, const Gradients& whole, double tolerance) {
  std::string wrong;
  const auto say = [&](bool is, const auto&... parts) {
    if (is) wrong += cat(parts..., " on rank ", tp.rank(), "; ");
  };
  say(mine.size() != whole.size(), mine.size(), " gradients, not ", whole.size());
  for (const auto& p : store.params()) {
    say(p->full != whole_store.find(p->name)->value.shape(), p->name, " is ", p->full);
    const bool owns = p->tp.rects.empty() ? tp.rank() == 0 : p->tp.owner;
    const int64_t owned = tp.all_reduce_value(owns ? p->value.numel() : 0, ReduceOp::kSum);
    say(owned != p->full.numel(), p->name, ' ', p->full, " has ", owned, " elements with an owner");
    const auto found = whole.find(p->name);
    say((found != whole.end()) != (mine.count(p->name) == 1), p->name, " has a gradient here or there only");
    if (found == whole.end() || mine.count(p->name) == 0) continue;
    const std::vector<float>& g = mine.at(p->name);
    if (p->tp.rects.empty()) wrong += other_bits(tp, g, p->name);
    const std::vector<float> want = elements_of(found->second, *p);
    say(g.size() != want.size(), p->name, " has ", g.size(), " elements, not ", want.size());
    double room = tolerance * max_abs(found->second);
    // Without rotary positions a softmax does not see a bias of its keys: held to the gradients of the values' bias.
    if (p->name.ends_with(".k.bias")) {
      const auto v = whole.find(p->name.substr(0, p->name.size() - 6) + "v.bias");
      if (v != whole.end()) room = std::max(room, tolerance * max_abs(v->second));
    }
    for (size_t i = 0; i < std::min(g.size(), want.size()); ++i)
      say(!(std::abs(static_cast<double>(g[i]) - want[i]) <= room), p->name, '[', i, "] is ", g[i], ", not ", want[i]);
  }
  return wrong;
}

inline constexpr TpoModel::Scales kScales{0.05f, 0.25f};

struct ModelCase {
  const char* name;
  int64_t heads, kv_heads;
  bool detach, train_new_rows;
  std::vector<std::string> frozen;
  bool qkv_bias = false;
  int64_t table_rows = 0;
  bool llava = false;  // SigLIP and MLP
  bool qformer = false, texts = false;
};

inline const ModelCase kModels[] = {
    {"6/2", 6, 2, false, true, {}, true, 41},
    {"4/1 detached", 4, 1, true, false, {}, true},
    {"4/4 adapters only", 4, 4, true, false, {"*weight", "*bias", "task_tokens.*"}},
    {"8/4 language frozen", 8, 4, false, false, {"language.*"}},
    {"6/2 llava", 6, 2, false, true, {}, true, 41, true},
    {"4/2 Q-Former", 4, 2, true, true, {}, true, 41, false, true},
    {"4/2 Q-Former with texts", 4, 2, false, true, {}, false, 0, false, true, true},
};

inline TpoConfig config_of(const ModelCase& m, bool sequence, Recompute recompute) {
  TpoConfig c = m.llava ? tiny_llava_config() : m.qformer ? tiny_qformer_config() : tiny_config();
  c.vision.heads = 4, c.vision.mlp_hidden = 41;  // prime, as are hidden widths and rows of the tables
  LanguageConfig& l = c.language;
  l.heads = m.heads, l.kv_heads = m.kv_heads, l.mlp_hidden = 43, l.vocab = 30;
  l.qkv_bias = m.qkv_bias, l.table_rows = m.table_rows;
  l.lora_dropout = 0.3f;
  l.detach_embeddings = m.detach, l.train_new_rows = m.train_new_rows;
  c.vision.sequence_parallel = l.sequence_parallel = sequence;
  c.vision.recompute = l.recompute = recompute;
  return c;
}

inline std::vector<Sample> samples_for(const TpoModel& model) {
  return {make_sample(model, "a", 9, true, 2, true), make_sample(model, "b", 12, false, 0, false),
          make_sample(model, "c", 6, true, 1, false)};
}

struct ModelRun {
  ParamStore store{7};
  double loss = 0;
  std::vector<float> states;
  Gradients gradients;
  int64_t activations_bytes = 0;  // peak

  ModelRun(const ModelCase& m, const TpoConfig& config, ProcessGroup& tp) {
    const auto stream = Stream::make_cpu();
    const StreamScope on_stream(*stream);
    const TpoModel model(store, config, tp);
    fill_with_noise(store, 0.5f);
    for (const std::string& pattern : m.frozen) store.set_trainable(pattern, false);
    Batch batch = pack(model, samples_for(model));
    if (m.texts) set_connector_text(batch, {{3, 1, 7, 2, 2, 9}, {4}});
    loss = run_loss(model, batch, kScales);
    gradients = take_gradients(store);
    activations_bytes = stream->allocator()->memory().peak[static_cast<size_t>(MemoryKind::kActivations)];
    const NoGradScope no_grad;
    states = model.forward(batch, RngKey()).to_vector<float>();
  }
};

// Parts round every sum of a layer differently: some hundred roundings of 6e-8 a gradient passes through, in part
// undone. Measured with four sets of BLAS kernels: below 5e-6 of a tensor's largest gradient.
inline constexpr double kModelTolerance = 1e-5;

}  // namespace tpo::testing
